"""The chat page: one HTML text per language and its few static files, all held in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from aiohttp import web
from jinja2 import Environment, StrictUndefined

from bot.catalogue import LANGUAGES, Catalogue, Language

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: str


class Page:
    """Answers with the page and its files; `base` is the path below which the connector's routes are."""

    def __init__(self, base: str, catalogue: Catalogue, *, max_text: int) -> None:
        folder = resources.files("bot.web")
        self._files = {
            file.name: _File(file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
            for file in folder.joinpath("static").iterdir()
        }
        version = hashlib.sha256(b"".join(self._files[name].body for name in sorted(self._files)))
        template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
            folder.joinpath("templates", "chat.html").read_text("utf-8")
        )
        texts = {language: _texts(catalogue, language) for language in LANGUAGES}
        self._html = {
            language: template.render(
                language=language,
                text=texts[language],
                other=texts["en" if language == "zh" else "zh"],
                static=f"{base}/static",
                version=version.hexdigest()[:12],
                max_text=max_text,
                boot={"base": base, "language": language, "texts": texts, "maxText": max_text},
            ).encode()
            for language in LANGUAGES
        }

    def html(self, language: Language) -> web.Response:
        """The page in a language; never cached, since it brings the visitor's cookie."""
        return web.Response(
            body=self._html[language],
            content_type="text/html",
            charset="utf-8",
            headers=_HEADERS | {"Cache-Control": "no-store", "Vary": "Accept-Language, Cookie"},
        )

    def file(self, name: str) -> web.Response:
        """A static file; its address changes with its content. Raises HTTPNotFound."""
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        return web.Response(
            body=file.body,
            content_type=file.content_type,
            charset="utf-8",
            headers=_HEADERS | {"Cache-Control": _FOREVER},
        )


def _texts(catalogue: Catalogue, language: Language) -> dict[str, str]:
    """What the page says, placeholders left for it to fill."""
    return catalogue.section("web", language) | {
        "rate_limited": catalogue.text("rate_limited", language, seconds="{seconds}"),
        "busy": catalogue.text("busy", language, seconds="{seconds}"),
        "feedback_up": catalogue.text("feedback_up", language),
        "feedback_down": catalogue.text("feedback_down", language),
        "feedback_thanks": catalogue.text("feedback_thanks", language),
        "feedback_down_reply": catalogue.text(
            "feedback_down_reply", language, contact=catalogue.text("contact", language)
        ),
    }
