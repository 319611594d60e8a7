"""Connection URLs without their secrets, for messages and saved configs."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
# Up to the last @, because a password that is not percent-encoded may contain @ or /.
PASSWORD = re.compile(r"(://[^:/@\s]*):.+@", re.DOTALL)
SECRET_OPTION = re.compile(r"([?&][^=&\s]*(?:pass|pwd|token|secret|key|credential)[^=&\s]*=)[^&\s]+", re.I)


def mask_url(url: str) -> str:
    """Puts *** for the URL's password and secret options: `postgresql://user:***@host/shop`."""
    return SECRET_OPTION.sub(rf"\1{MASK}", PASSWORD.sub(rf"\1:{MASK}@", url))


def mask_secrets(settings: Any) -> Any:
    """Applies `mask_url` to every text with a URL in plain settings, at any depth."""
    if isinstance(settings, Mapping):
        return {key: mask_secrets(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [mask_secrets(value) for value in settings]
    return mask_url(settings) if isinstance(settings, str) and "://" in settings else settings


def has_secret(text: str) -> bool:
    """Whether a text holds a URL with a password or a secret option."""
    return "://" in text and mask_url(text) != text


def mask_message(message: str, url: str = "") -> str:
    """Puts *** for the secrets of `url` and of every URL in the message."""
    message = message.replace(url, mask_url(url)) if url else message
    for secret in _secrets(url):
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, message)
    return re.sub(r"\S+://\S+", lambda match: mask_url(match[0]), message)


def _secrets(url: str) -> list[str]:
    """The secrets of a URL, percent-encoded and decoded, the longest first."""
    parts = urlsplit(url)
    written = [parts.password or ""]
    written += [value for name, value in parse_qsl(parts.query) if SECRET_OPTION.match(f"?{name}={value}")]
    return sorted({text for each in written for text in (each, unquote(each)) if text}, key=len, reverse=True)
