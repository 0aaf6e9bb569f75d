"""Charts as SVG files: ratios for bench/compare.py --plot, throughput over time for bench/skew.py."""

from xml.sax.saxutils import escape

BAR, GAP, LEFT, WIDTH = 18, 6, 300, 460  # pixels


def ratio_chart(title, rows):
    """rows: (label, ratio). A line at 1 is the peer's speed."""
    most = max([1.0] + [ratio for _, ratio in rows])
    scale = WIDTH / most
    height = 60 + len(rows) * (BAR + GAP)
    one = LEFT + scale
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="22" font-size="15">{escape(title)}</text>',
    ]
    y = 40
    for label, ratio in rows:
        out += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{ratio * scale:.1f}" height="{BAR}" fill="#3b76b5"/>',
            f'<text x="{LEFT + ratio * scale + 6:.1f}" y="{y + 14}">{ratio:.2f}</text>',
        ]
        y += BAR + GAP
    out += [
        f'<line x1="{one:.1f}" y1="34" x2="{one:.1f}" y2="{y}" stroke="#c03030" stroke-dasharray="4 3"/>',
        f'<text x="{one + 4:.1f}" y="{y + 14}" fill="#c03030">llama.cpp</text>',
        "</svg>",
    ]
    return "\n".join(out) + "\n"


COLOURS = ["#999999", "#3b76b5", "#3a9a5b"]


def timeline_chart(title, series, marks):
    """series: (name, [(seconds, tokens a second, phase)]), smoothed over two seconds. A dashed line where the phase of
    a series changes, in its colour, a triangle for each of `marks` (seconds; new placements of the last series)."""
    width, height, left, top, bottom = 820, 360, 60, 60, 30
    longest = max(points[-1][0] for _, points in series)
    smooth = [[sum(p[1] for p in points[max(0, i - 3):i + 1]) / len(points[max(0, i - 3):i + 1])
               for i in range(len(points))] for _, points in series]
    most = max(max(values) for values in smooth) * 1.05
    across = lambda s: left + s / longest * (width - left - 20)
    up = lambda v: height - bottom - v / most * (height - top - bottom)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}</text>',
    ]
    for i in range(5):
        value = most * i / 4
        out.append(f'<text x="{left - 6}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.0f}</text>'
                   f'<line x1="{left}" x2="{width - 20}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#e5e5e5"/>')
    for second in range(0, int(longest) + 1, 10):
        out.append(f'<text x="{across(second):.1f}" y="{height - 10}" text-anchor="middle">{second} s</text>')
    for n, ((name, points), values) in enumerate(zip(series, smooth)):
        colour = COLOURS[n % len(COLOURS)]
        line = " ".join(f"{across(p[0]):.1f},{up(v):.1f}" for p, v in zip(points, values))
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<text x="{left + 10 + 220 * n}" y="42" fill="{colour}">{escape(name)}</text>')
        for before, after in zip(points, points[1:]):
            if after[2] != before[2]:
                out.append(f'<line x1="{across(after[0]):.1f}" x2="{across(after[0]):.1f}" y1="{top}" y2="{height - bottom}" '
                           f'stroke="{colour}" stroke-dasharray="4 3"/>')
    for second in marks:
        x = across(min(second, longest))
        out.append(f'<path d="M{x:.1f} {height - bottom} l-5 9 h10 z" fill="{COLOURS[(len(series) - 1) % len(COLOURS)]}"/>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
