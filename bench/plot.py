"""A bar chart of ratios as an SVG file: what bench/compare.py --plot writes."""

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
