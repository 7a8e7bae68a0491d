"""The page on which a token is pasted: plain HTML, which needs no script."""

from __future__ import annotations

import html

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Log in - RapidFire AI</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 12vh auto; padding: 0 1rem; }}
textarea {{ width: 100%; box-sizing: border-box; font: 13px/1.4 ui-monospace, monospace; }}
button {{ font: inherit; padding: .4rem 1.2rem; margin-top: .6rem; }}
[role=alert] {{ border-left: 4px solid #b00020; padding-left: .8rem; }}
</style>
</head>
<body>
<main>
<h1>RapidFire AI</h1>
{problem}
<form method="post" action="/login/token">
<label for="token">Your token for the cluster</label>
<textarea id="token" name="token" rows="4" required autocomplete="off" spellcheck="false" autofocus></textarea>
<button type="submit">Log in</button>
</form>
<p>On this machine <code>rapidfireai dashboard</code> opens the dashboard logged in. On a cluster
<code>kubectl create token rapidfire-user</code> prints a token, or your administrator gives you one. What you may see
and do here is what the cluster lets the owner of the token.</p>
</main>
</body>
</html>
"""


def login_page(problem: str) -> str:
    """Return the page.

    Args:
        problem: Why the last try did not work, or empty.
    """
    said = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    return _PAGE.format(problem=said)
