"""A request with a signature token: TOKEN=... TOKEN_SECRET=... python3 zenvia_signed_request.py METHOD URL [JSON]"""
import base64, hashlib, hmac, os, sys, urllib.error, urllib.request
from email.utils import formatdate
from urllib.parse import urlsplit


def signed(method, url, body, token, secret):
    """The headers of a request whose body is these bytes (none: empty)."""
    parts = urlsplit(url)
    path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    date = formatdate(usegmt=True)
    content_type = "application/json" if body else ""
    md5 = hashlib.md5(body).hexdigest() if body else ""
    lines = "\n".join([method, md5, content_type, date, parts.hostname, path])
    signature = base64.b64encode(hmac.new(secret.encode(), lines.encode(), hashlib.sha256).digest()).decode()
    headers = {"X-API-Token": token, "X-API-Signature": signature, "Date": date}
    return headers | ({"Content-Type": content_type} if body else {})


if __name__ == "__main__":
    method, url, body = sys.argv[1], sys.argv[2], "".join(sys.argv[3:4]).encode()
    headers = signed(method, url, body, os.environ["TOKEN"], os.environ["TOKEN_SECRET"])
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body or None, headers, method=method)) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as answer:
        sys.exit(f"{answer.code} {answer.read().decode()}")
