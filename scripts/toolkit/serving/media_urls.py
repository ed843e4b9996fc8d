"""What a chat request may hold: text, and images that it brings along. Nothing that a model server would go and fetch.

A model server opens the addresses of a request from inside the network (server-side request forgery). So a request is
checked against a list of what is allowed, not of what is forbidden.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
IMAGE_PARTS = ("image_url", "input_image")
PART_KEYS = {"type", "text", "refusal", "thinking", "closed", "image_url", "detail", "uuid", "cache_control"}
IMAGE_KEYS = {"url", "detail"}
# Their values are text or JSON schemas, never parts of a message.
NESTED_MESSAGE_KEYS = {"tool_calls", "function_call", "tools"}
# They name other machines, or how media are opened.
FORBIDDEN_FIELDS = ("kv_transfer_params", "ec_transfer_params", "media_io_kwargs", "mm_payload")
DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp|gif|bmp|tiff);base64,([A-Za-z0-9+/]+={0,2})", re.IGNORECASE)
SIGNATURE = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP|GIF8[79]a|BM|II\*\x00|MM\x00\*", re.DOTALL)
ADVICE = "only text and images as data URLs (data:image/png;base64,...) are taken"


def refusal_of(body: dict[str, Any]) -> str:
    """Why a chat request is not passed on, in one sentence; empty where it may be."""
    for name in FORBIDDEN_FIELDS:
        if body.get(name) is not None:
            return f"{name}: this field is not taken"
    messages = body.get("messages")
    if not isinstance(messages, list):
        return "a JSON object with messages is needed"
    for number, message in enumerate(messages):
        if problem := _message_problem(message):
            return f"messages[{number}]{problem}"
    return ""


def _message_problem(message: Any) -> str:
    if not isinstance(message, dict):
        return ": a message must be an object"
    for name, value in message.items():
        if name != "content" and name not in NESTED_MESSAGE_KEYS and isinstance(value, dict | list):
            return f".{name}: {ADVICE}"
    content = message.get("content")
    if content is None or isinstance(content, str):
        return ""
    if not isinstance(content, list):
        return f".content: {ADVICE}"
    for number, part in enumerate(content):
        if problem := _part_problem(part):
            return f".content[{number}]: {problem}"
    return ""


def _part_problem(part: Any) -> str:
    if isinstance(part, str):
        return ""
    if not isinstance(part, dict) or not part.keys() <= PART_KEYS:
        return ADVICE
    kind = part.get("type")
    # A server may go by the keys and not by the type: every key is checked, whatever the type says.
    if kind is not None and kind not in TEXT_PARTS and kind not in IMAGE_PARTS:
        return ADVICE
    if any(isinstance(part.get(name), dict | list) for name in TEXT_PARTS):
        return ADVICE
    return _image_problem(part["image_url"]) if "image_url" in part else ""


def _image_problem(image: Any) -> str:
    if isinstance(image, dict):
        if not image.keys() <= IMAGE_KEYS:
            return ADVICE
        image = image.get("url")
    if image is None:  # an image that the server has already, named by its uuid
        return ""
    if not isinstance(image, str):
        return ADVICE
    match = DATA_URL.fullmatch(image)
    if match is None:
        return ADVICE
    try:
        start = base64.b64decode(match[1][:16], validate=True)
    except binascii.Error:
        return ADVICE
    return "" if SIGNATURE.match(start) else "the data URL holds no PNG, JPEG, WebP, GIF, BMP or TIFF image"
