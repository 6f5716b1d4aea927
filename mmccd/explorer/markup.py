"""CSS and HTML of the explorer's page."""

import html
from base64 import b64encode

STYLE = """<style>
.x-explorer { container-type: inline-size; --jp-widgets-font-size: clamp(13px, .9cqw, 17px) }
.x-picture { align-self: flex-start; width: auto; height: auto; max-width: 100%; max-height: 58vh }
.x-text .widget-html-content { font-size: 16px; line-height: 1.4; min-height: 112px }
.x-message .widget-html-content { font-size: 16px; min-height: 28px }
.x-scores .widget-html-content { font-size: 18px; font-weight: bold; line-height: 1.3; min-height: 47px }
.x-lines pre { user-select: all; white-space: pre-wrap }
</style>"""

# Notebook 7 takes the arrow keys of a slider for its own (they go to the next cell) unless the element opts out.
# A script element in a widget does not run; the error handler of an image without a source does.
KEEP_KEYS = """<img src="data:," alt="" onerror="this.closest('.x-explorer').addEventListener(
  'focusin', e => { e.target.dataset.lmSuppressShortcuts = 'true' })">"""


def message(text: str, is_error: bool = False, extra: str = "") -> str:
    """A sentence for the reader as HTML, announced by screen readers; `extra` is HTML that follows it."""
    if not (text or extra):
        return ""
    role, colour = ("alert", "#A33C00") if is_error else ("status", "#333333")
    return f'<span role="{role}" style="color:{colour}">{html.escape(text)}</span> {extra}'


def download_link(name: str, data: bytes) -> str:
    """A link that downloads the file from the page itself, which works where the kernel's folder cannot be reached."""
    kind, name = "image/gif" if name.endswith("gif") else "image/png", html.escape(name)
    return f'<a download="{name}" href="data:{kind};base64,{b64encode(data).decode()}">Download {name}</a>'


def code_block(text: str) -> str:
    """Lines of code as HTML."""
    return f"<pre>{html.escape(text)}</pre>"
