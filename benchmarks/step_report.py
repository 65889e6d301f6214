"""What ``step.py`` prints: the table, the goals that its rows can judge, the processor."""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| threads | critics | max-Q | hidden layers | plain ms | bare ms | Trainer ms | plain / Trainer | Lightning adds ms "
        "| share of product rate (GFLOP/s) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['threads']} | {r['critics']} | {'on' if r['max_q'] else 'off'} | {r['precision']} | {r['plain_ms']:.1f} "
            f"| {r['bare_ms']:.1f} | {r['trainer_ms']:.1f} | {r['ratio']:.2f} | {r['overhead_ms']:.2f} "
            f"| {r['share']:.0%} of {r['product_rate_gflops']:.0f} |"
        )
    return "\n".join(lines)


def goals(rows: list[dict[str, Any]], device: str) -> Iterator[str]:
    """Yield one line per goal that these rows can judge."""

    def line(name: str, value: float, target: float, met: bool) -> str:
        return f"goal {name} {value:.3g} {target:g} {'met' if met else 'missed'}"

    def pick(critics: int, max_q: bool, precision: str) -> dict[str, Any] | None:
        wanted = (1 if device == "cpu" else rows[0]["threads"], critics, max_q, precision)
        return next((r for r in rows if (r["threads"], r["critics"], r["max_q"], r["precision"]) == wanted), None)

    ratios = [
        ("bf16_M64_ratio", 64, False, "bfloat16", 4.0),
        ("bf16_M64_max_q_ratio", 64, True, "bfloat16", 7.0),
        ("fp32_M64_ratio", 64, False, "float32", 1.8),
        ("bf16_M10_ratio", 10, False, "bfloat16", 3.0),
    ]
    if device != "cpu":
        ratios = [("gpu_M64_max_q_ratio", 64, True, "bfloat16", 10.0)]
    for name, critics, max_q, precision, target in ratios:
        row = pick(critics, max_q, precision)
        if row is not None:
            yield line(name, row["ratio"], target, row["ratio"] >= target)
    row = pick(64, True, "bfloat16")
    if device != "cpu" and row is not None:
        minutes = row["trainer_ms"] * 1e6 / 6e4
        yield line("gpu_million_steps_minutes", minutes, 20, minutes < 20)
        yield line("gpu_share_of_product_rate", row["share"], 0.5, row["share"] >= 0.5)
    row = pick(64, False, "bfloat16")
    if row is not None:
        share = row["overhead_ms"] / row["bare_ms"]
        yield line("lightning_share_M64", share, 0.05, share <= 0.05)
    if rows:
        # The difference of two long times is noise at 64 critics; the callbacks' cost hardly depends on the critics.
        row = min(rows, key=lambda r: r["bare_ms"])
        yield line("lightning_ms_per_step", row["overhead_ms"], 0.4, row["overhead_ms"] <= 0.4)


def processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for text in path.read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()
