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


if __name__ == "__main__":
    main()
