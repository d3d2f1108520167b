"""Prints what bench/run.sh measured, ours beside the peer's fastest attention implementation."""
import json
import sys
from pathlib import Path


def load(folder, name):
    return json.loads((folder / name).read_text())


def main():
    folder = Path(sys.argv[1])
    ours = load(folder, "engine.json")
    peers = [load(folder, f"peer-{a}.json") for a in ("sdpa", "eager")]
    best = {key: min(p[key] for p in peers) for key in peers[0] if isinstance(peers[0][key], float | int)}
    gigabyte = 1e9
    flop = 2 * 6.476e9 * ours["tokens"]  # the decoder's products: 32 * (4 D D + 3 D F) multiply-adds a token
    print(f"\n7B geometry, {ours['tokens']} tokens, bf16; medians; the peer's fastest attention for each row\n")
    print("| what | sightline | transformers | ratio |\n|---|---|---|---|")
    rows = [("tower and projector, s", "tower_s", "tower_s"), ("prefill, s", "prefill_s", "prefill_s"),
            ("CAM of all layers against one retained graph, s", "cam_s", "cam_retained_s"),
            ("CAM of all layers against a pass per layer, s", "cam_s", "cam_per_layer_s")]
    for label, own, peer in rows:
        print(f"| {label} | {ours[own]:.2f} | {best[peer]:.2f} | {best[peer] / ours[own]:.1f} |")
    print(f"| CAM's peak memory above the weights, GB | {ours['cam_peak_bytes'] / gigabyte:.2f} | "
          f"{best['cam_retained_peak_bytes'] / gigabyte:.2f} | {best['cam_retained_peak_bytes'] / ours['cam_peak_bytes']:.1f} |")
    above = ours["flow_peak_bytes"] - ours["kv_bytes"]
    print(f"\nFlow: {ours['flow_s']:.2f} s, peak {above / 1e6:.0f} MB above weights and K/V ({ours['kv_bytes'] / 1e6:.0f} MB).")
    print(f"Prefill: {flop / ours['prefill_s'] / 1e12:.2f} TFLOP/s of the decoder's products.")


if __name__ == "__main__":
    main()
