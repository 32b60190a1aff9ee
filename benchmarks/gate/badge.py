# SPDX-License-Identifier: Apache-2.0
"""The verdict as a badge: a small SVG for a README, without a network or a font of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_GREEN, _RED, _YELLOW, _GREY = "#3c8a3c", "#b8322a", "#a87a00", "#555"
#: Verdana of 11 pixels, roughly; the text is stretched to what is reserved for it.
_PIXELS = 6.6


def as_badge(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """ "edgepress gate | passed", "... | 2 of 5 failed", or "... | passed, 1 warned"."""
    failed = sum(not verdict["passed"] for verdict in verdicts)
    warned = sum(len(verdict["warnings"]) for verdict in verdicts)
    if failed:
        text, colour = ("failed" if len(verdicts) == 1 else f"{failed} of {len(verdicts)} failed"), _RED
    else:
        text, colour = (f"passed, {warned} warned", _YELLOW) if warned else ("passed", _GREEN)
    return badge("edgepress gate", text, colour)


def badge(label: str, text: str, colour: str) -> str:
    """Two fields beside each other, 20 pixels high."""
    left, right = (round(_PIXELS * len(part)) + 14 for part in (label, text))
    label, text = escape(label), escape(text)
    title = f"{label}: {text}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{title}">'
        f"<title>{title}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="{_GREY}"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{left}z" fill="{colour}"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14" textLength="{left - 14}">{label}</text>'
        f'<text x="{left + right / 2}" y="14" textLength="{right - 14}">{text}</text></g></svg>\n'
    )
