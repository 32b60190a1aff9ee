# SPDX-License-Identifier: Apache-2.0
"""One sticky comment on a pull request and the job summary, through GitHub's REST API and nothing but urllib."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

from edgepress.models.errors import RuntimeFailure, UsageError
from edgepress.models.files.reading import read_json

#: GitHub refuses longer comments (65,536 characters).
_LONGEST = 65_000
_SECONDS = 20
_PAGES = 20
_PER_PAGE = 100


def marker(name: str) -> str:
    """The invisible line by which a later run finds its comment again."""
    cleaned = "".join(c for c in name if c.isalnum() or c in " ._-")
    return f"<!-- edgepress gate: {cleaned} -->"


def body_of(markdown: str, name: str) -> str:
    """The comment: marker and text, cut at a line end where it is too long."""
    if len(markdown) > _LONGEST:
        markdown = markdown[:_LONGEST].rpartition("\n")[0] + "\n\n(cut: the job summary has the rest)\n"
    return f"{marker(name)}\n{markdown}"


def write_summary(markdown: str, environment: Mapping[str, str] | None = None) -> bool:
    """Append to the job summary; False outside of a GitHub job."""
    path = (os.environ if environment is None else environment).get("GITHUB_STEP_SUMMARY")
    if not path:
        return False
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(markdown.rstrip("\n") + "\n\n")
    return True


def pull_request(environment: Mapping[str, str] | None = None) -> int | None:
    """The number of the pull request that this job belongs to, None for another kind of event.

    Raises:
        UsageError: the event file is missing or no JSON.
    """
    path = (os.environ if environment is None else environment).get("GITHUB_EVENT_PATH")
    if not path:
        return None
    try:
        event = read_json(path)
    except UsageError as error:
        raise UsageError(f"cannot read GITHUB_EVENT_PATH = {path}: {error}") from None
    request = event.get("pull_request") if isinstance(event, dict) else None
    number = request.get("number") if isinstance(request, dict) else None
    return number if isinstance(number, int) else None


def post_comment(markdown: str, name: str, number: int, environment: Mapping[str, str] | None = None) -> str:
    """Create the comment, or replace the text of the one that an earlier run left.

    Args:
        markdown: the text.
        name: tells several gates of one pull request apart.
        number: of the pull request.
        environment: GITHUB_REPOSITORY, GITHUB_API_URL, GITHUB_TOKEN.

    Returns:
        "created", "updated", or "forbidden" where the token may not comment (a pull request from a fork).

    Raises:
        UsageError: a variable is missing. RuntimeFailure: GitHub does not answer, or answers with another error.
    """
    given = os.environ if environment is None else environment
    missing = [key for key in ("GITHUB_REPOSITORY", "GITHUB_TOKEN") if not given.get(key)]
    if missing:
        raise UsageError(f"the comment needs {' and '.join(missing)} in the environment")
    base = given.get("GITHUB_API_URL") or "https://api.github.com"
    if not base.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise UsageError(f"GITHUB_API_URL = {base!r} is not https: the token would be sent in the clear")
    comments = f"{base}/repos/{given['GITHUB_REPOSITORY']}/issues"
    token, body = given["GITHUB_TOKEN"], {"body": body_of(markdown, name)}
    try:
        for comment in _comments(f"{comments}/{number}/comments", token):
            if str(comment.get("body", "")).startswith(marker(name)):
                try:
                    _call("PATCH", f"{comments}/comments/{int(comment['id'])}", token, body)
                    return "updated"
                except urllib.error.HTTPError as error:
                    # Somebody else's comment with our marker: leave it alone and write our own.
                    if error.code not in (403, 404):
                        raise
        _call("POST", f"{comments}/{number}/comments", token, body)
        return "created"
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            return "forbidden"
        raise RuntimeFailure(f"GitHub answered {error.code} ({error.reason}) to the comment on #{number}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise RuntimeFailure(f"GitHub did not take the comment on #{number}: {error}") from None


def _comments(url: str, token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for page in range(1, _PAGES + 1):
        part = _call("GET", f"{url}?{urllib.parse.urlencode({'per_page': _PER_PAGE, 'page': page})}", token)
        if not isinstance(part, list):
            raise ValueError("the list of comments is no list")
        found += [comment for comment in part if isinstance(comment, dict)]
        if len(part) < _PER_PAGE:
            break
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would carry the token to whatever host a redirect names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _call(method: str, url: str, token: str, body: Any = None) -> Any:
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "User-Agent": "edgepress",
        "Content-Type": "application/json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS) as answer:
        return json.loads(answer.read().decode() or "null")
