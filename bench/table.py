"""Prints what bench/run.sh measured: ours beside the peer's fastest attention implementation, with the floor, which is the
decoder's products at the rate that bench_product measured for them in the same run."""
import json
import re
import sys
from pathlib import Path

DECODER_MACS = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)  # multiply-adds a token


def load(folder, name):
    return json.loads((folder / name).read_text())


def product_rate(folder):
    """FLOP/s of a 7B layer's products at T = 636 in bf16."""
    text = (folder / "product.txt").read_text()
    return 1e9 * float(re.search(r"products (\d+) GFLOP/s; layer", text).group(1))


def interventions(folder):
    """Head attribution and the truncation sweep beside both rivals. Floors: the products of the same rows, timed alone in the
    same run."""
    ours, peer = load(folder, "branch.json"), load(folder, "branch-hooks.json") | load(folder, "branch-expert.json")
    masks, cuts = ours["masks"], ours["cuts"]
    print(f"\nInterventions: {masks} masks of all heads, {ours['tokens']} tokens of which {ours['suffix']} after the image, "
          f"batches of {ours['batch']}\n")
    print("| what | floor | sightline | rival | its time | ratio |\n|---|---|---|---|---|---|")
    rows = [(f"{masks} masks of heads, s", "heads_products_s", "heads_s", "hooks, a forward per mask", peer["hooks_mask_s"] * masks),
            (f"{masks} masks of heads, s", "heads_products_s", "heads_s", "expert, prefix kept", peer["expert_s"]),
            (f"{cuts} cuts, s", "sweep_products_s", "sweep_s", "hooks, a forward per layer", peer["hooks_cut_s"] * cuts),
            (f"{cuts} cuts, s", "sweep_products_s", "sweep_s", "expert, prefix kept", peer["expert_sweep_s"]),
            ("plain forward, s", None, "plain_s", "transformers", peer["plain_s"]),
            ("prefix and trunk, s", None, "start_s", "expert", peer["expert_start_s"])]
    for label, floor, own, rival, theirs in rows:
        print(f"| {label} | {f'{ours[floor]:.2f}' if floor else ''} | {ours[own]:.2f} | {rival} | {theirs:.2f} | {theirs / ours[own]:.1f} |")
    whole = ours["start_s"] + ours["sweep_s"]
    print(f"\n{masks / ours['heads_s']:.1f} masks/s, {100 * ours['heads_products_s'] / ours['heads_s']:.0f} % of the products' own rate; "
          f"peak {ours['heads_peak_bytes'] / 1e6:.0f} MB above prefix and trunk. The whole curve, prefix included, takes "
          f"{whole / (ours['plain_s'] + ours['tower_s']):.2f} of a plain answer (tower and one forward).")


def main():
    folder = Path(sys.argv[1])
    ours, rate = load(folder, "engine.json"), product_rate(folder)
    peers = [load(folder, f"peer-{a}.json") for a in ("sdpa", "eager")]
    best = {key: min(p[key] for p in peers) for key in peers[0] if key != "attention"}
    flop = 2 * DECODER_MACS * ours["tokens"]
    print(f"\n7B geometry, {ours['tokens']} tokens, bf16, medians; the peer's fastest attention for each row; floors at "
          f"{rate / 1e12:.2f} TFLOP/s\n")
    print("| what | floor | sightline | transformers | ratio |\n|---|---|---|---|---|")
    rows = [("tower and projector, s", None, "tower_s", "tower_s"),
            ("prefill, s", flop / rate, "prefill_s", "prefill_s"),
            ("CAM of all layers against one retained graph, s", 2 * flop / rate, "cam_s", "cam_retained_s"),
            ("CAM of all layers against a pass per layer, s", 2 * flop / rate, "cam_s", "cam_per_layer_s")]
    for label, floor, own, peer in rows:
        print(f"| {label} | {f'{floor:.2f}' if floor else ''} | {ours[own]:.2f} | {best[peer]:.2f} | {best[peer] / ours[own]:.1f} |")
    print(f"| CAM's peak memory above the weights, GB | | {ours['cam_peak_bytes'] / 1e9:.2f} | "
          f"{best['cam_retained_peak_bytes'] / 1e9:.2f} | {best['cam_retained_peak_bytes'] / ours['cam_peak_bytes']:.1f} |")
    above = ours["flow_peak_bytes"] - ours["kv_bytes"]
    print(f"\nFlow: {ours['flow_s']:.2f} s, peak {above / 1e6:.0f} MB above weights and K/V ({ours['kv_bytes'] / 1e6:.0f} MB).")
    print(f"Prefill reaches {100 * flop / rate / ours['prefill_s']:.0f} % of the product's own rate.")
    interventions(folder)


if __name__ == "__main__":
    main()
