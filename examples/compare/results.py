"""Medians, ratios and spread; as Markdown, as a picture, as JSON."""

import json
import os
import platform
import time
from html import escape
from pathlib import Path
from statistics import median

LIMIT, OURS = "bare", "hubnerite"


def brief(figure):
    """One measurement in a few words."""
    if "error" in figure:
        return "FAILED: " + figure["error"]
    if figure["mode"] == "idle":
        return f"{figure['memory']['bytes_per_connection']:,.0f} B a connection"
    latency = figure["latency_us"]
    if figure["mode"] == "publish":
        return f"{figure['server_cpu_us']:.1f} µs a publish, {figure['publishes_per_second']:,.0f}/s, p50 {latency['p50']:,.0f} µs, p99 {latency['p99']:,.0f} µs"
    return f"{figure['server_cpu_us']:.3f} µs, {figure['per_second']:,.0f}/s, p99 {latency['p99']:,.0f} µs"


def pick(figures, mode, server, value):
    """The values of one cell by round."""
    cell = [figure for figure in figures if figure["mode"] == mode and figure["server"] == server and "error" not in figure]
    return {figure["round"]: value(figure) for figure in cell}


def spread(values):
    """Half the distance between the quartiles, in percent of the median; nothing where there are no quartiles."""
    ordered, middle = sorted(values), median(values)
    if len(ordered) < 3 or not middle:
        return ""
    quartile = len(ordered) // 4
    return f" ±{50 * (ordered[-1 - quartile] - ordered[quartile]) / middle:.0f} %"


def ratios(cell, base):
    """Of each round to the same round of another server: what disturbs a round disturbs both."""
    return [value / base[turn] for turn, value in cell.items() if base.get(turn)]


def cpu(figure):
    return figure["server_cpu_us"]


def rate(figure):
    return figure["per_second"]


def is_ours_to_blame(figure):
    """Whether the load generator's core was full and the server's was not: then this is its limit."""
    return figure["load_cores"] > 0.9 and figure["server_cores"] < 0.93


def idle_bytes(figure):
    return figure["memory"]["bytes_per_connection"]


def base_bytes(figure):
    return figure["memory"]["before"]["resident"]


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def cell_text(figures, mode, server, value, base):
    cell = pick(figures, mode, server, value)
    failed = [figure["error"] for figure in figures if figure["mode"] == mode and figure["server"] == server and "error" in figure]
    if not cell:
        return "failed" if failed else ""
    text = number(median(cell.values()))
    compared = ratios(cell, pick(figures, mode, base, value)) if base != server else []
    if compared:
        text += f" ({number(median(compared))}x{spread(compared)})"
    if value is rate and median(pick(figures, mode, server, is_ours_to_blame).values()) > 0.5:
        text += " †"
    return text + (f", {len(failed)} failed" if failed else "")


def table(title, figures, modes, servers, value, base):
    lines = [f"### {title}", "", "| server | " + " | ".join(modes.values()) + " |", "|---" * (len(modes) + 1) + "|"]
    for server in servers:
        cells = [cell_text(figures, mode, server.name, value, base) for mode in modes]
        lines.append(f"| {server.title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def idle_table(figures, servers):
    lines = ["### Memory of an idle connection", "", "| server | user-space bytes a connection | MiB before the first one |", "|---|---|---|"]
    for server in servers:
        each, base = (pick(figures, "idle", server.name, value) for value in (idle_bytes, base_bytes))
        if each:
            lines.append(f"| {server.title} | {number(median(each.values()))}{spread(each.values())} | {median(base.values()) / 2**20:.1f} |")
    return [*lines, ""]


def publishes(figure):
    return figure["publishes_per_second"]


def middle_ms(figure):
    return figure["latency_us"]["p50"] / 1000


def late_ms(figure):
    return figure["latency_us"]["p99"] / 1000


def echo_late_ms(figure):
    return figure["echo_latency_us"]["p99"] / 1000


def latest_ms(figure):
    return figure["latency_us"]["p99.9"] / 1000


PUBLISHES = {
    "CPU time a publish, µs": cpu,
    "publishes a second": publishes,
    "deliveries a second": rate,
    "p50, ms": middle_ms,
    "p99, ms": late_ms,
    "echo beside, p99, ms": echo_late_ms,
}
ECHOES = {"CPU time a message, µs": cpu, "p50, ms": middle_ms, "p99, ms": late_ms, "p99.9, ms": latest_ms}
CONNECTIONS = {"CPU time a connection, µs": cpu, "connections a second": rate, "p50, ms": middle_ms, "p99, ms": late_ms}


def mode_table(title, mode, figures, servers, columns):
    """A mode with columns of its own, each with how many times hubnerite's that is."""
    heads = ["server", *columns]
    lines = [f"### {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for server in servers:
        if server.takes(mode):
            cells = [cell_text(figures, mode, server.name, value, OURS) for value in columns.values()]
            lines.append(f"| {server.title} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(modes, servers, missing, figures):
    rounds = 1 + max((figure["round"] for figure in figures), default=-1)
    busy = {mode: text for mode, text in modes.items() if mode.startswith(("echo", "fanout"))}
    names = {server.name for server in servers}
    lines = [
        "## Comparison",
        "",
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, Linux {platform.release()}; rounds: {rounds}, servers in turn.",
        "Medians over the rounds; in brackets the median of the ratio within each round, and half the distance between its quartiles.",
        "† the load generator's core was full, the server's was not: the server could do more. An empty cell: the server cannot do that.",
        "",
    ]
    if busy and LIMIT in names:
        lines += table("CPU time of the server, µs per message or delivery (and how many times the limit)", figures, busy, servers, cpu, LIMIT)
    elif busy:
        lines += table("CPU time of the server, µs per message or delivery", figures, busy, servers, cpu, servers[0].name if servers else "")
    if busy:
        lines += table(f"Messages or deliveries a second (and how many times {OURS})", figures, busy, servers, rate, OURS)
    for mode, text in modes.items():
        if mode.startswith("publish"):
            lines += mode_table(f"{text}, while 1,000 clients echo", mode, figures, servers, PUBLISHES)
        elif mode.startswith("rate"):
            lines += mode_table(text, mode, figures, servers, ECHOES)
        elif mode in ("connect", "churn"):
            lines += mode_table(text, mode, figures, servers, CONNECTIONS)
    if "idle" in modes:
        lines += idle_table(figures, servers)
    lines += ["Versions: " + "; ".join(f"{server.title} {server.version}".strip() for server in servers) + ".", ""]
    for name, why in missing.items():
        lines.append(f"Not in the tables: {name}: {why}")
    for figure in figures:
        if "error" in figure:
            lines.append(f"Failed: {figure['server']}, {figure['mode']}, round {figure['round'] + 1}: {figure['error']}")
    return "\n".join(lines) + "\n"


# --- the picture ---------------------------------------------------------------------------------------------------

PANEL, LABEL, BAR, GAP, TOP = 470, 120, 20, 6, 34
COLOURS = {OURS: "#1f5fa8", LIMIT: "#9aa0a6"}


def panel(title, rows, x, y):
    """Bars for one mode: the shorter the better."""
    longest = max(value for _, value in rows)
    parts = [f'<text x="{x}" y="{y + 18}" font-weight="bold">{escape(title)}</text>']
    for index, (name, value) in enumerate(rows):
        top = y + TOP + index * (BAR + GAP)
        width = max(1.0, (PANEL - LABEL - 90) * value / longest)
        colour = COLOURS.get(name, "#c9b27c")
        weight = ' font-weight="bold"' if name == OURS else ""
        parts.append(f'<text x="{x + LABEL - 8}" y="{top + 15}" text-anchor="end"{weight}>{escape(name)}</text>')
        parts.append(f'<rect x="{x + LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{x + LABEL + width + 6:.1f}" y="{top + 15}"{weight}>{number(value)}</text>')
    return "\n".join(parts)


def picture(modes, servers, figures):
    panels = []
    # Posts are not in it: nchan, as it is set up here, asks nobody who they are.
    for mode, text in ((mode, text) for mode, text in modes.items() if not mode.startswith("publish")):
        value, unit = (idle_bytes, "bytes each") if mode == "idle" else (cpu, "µs of CPU each")
        cells = [(server.name, pick(figures, mode, server.name, value)) for server in servers]
        rows = [(name, max(0.0, median(cell.values()))) for name, cell in cells if cell]
        if rows and max(value for _, value in rows) > 0:
            panels.append((f"{text}: {unit}", rows))
    height = TOP + 16 + max((len(rows) for _, rows in panels), default=0) * (BAR + GAP)
    lines = (len(panels) + 1) // 2
    width, total = 2 * PANEL + 60, lines * height + 56
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" viewBox="0 0 {width} {total}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#222">',
        f'<rect width="{width}" height="{total}" rx="8" fill="#fff"/>',
        f'<text x="20" y="28" font-size="15">Cost to the server on one core (shorter is better), {time.strftime("%Y-%m-%d")}, {escape(processor())}</text>',
    ]
    for index, (title, rows) in enumerate(panels):
        parts.append(panel(title, rows, 20 + index % 2 * (PANEL + 20), 44 + index // 2 * height))
    return "\n".join([*parts, "</svg>", ""])


def write(stem, modes, servers, missing, figures):
    """Into the files with these beginnings; and says what is in the one for people."""
    text = markdown(modes, servers, missing, figures)
    stem.with_suffix(".json").write_text(json.dumps({"modes": modes, "missing": missing, "figures": figures}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".svg").write_text(picture(modes, servers, figures))
    return text
