"""A receiver of Standard Webhooks: WEBHOOK_SECRET=whsec_... PORT=9000 python3 standard_receiver.py"""
import base64, hashlib, hmac, os, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
lock = threading.Lock()
LIMIT = 8 * 1024 * 1024
seen = {}  # keys of what was worked on; keep them in a database if doubles must not happen after a restart


def verify(headers, body, now):
    """The id of a genuine request; raises ValueError for any other."""
    key, t = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    digest = hmac.new(SECRET, f"{key}.{t}.".encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    # One for each secret that is live: while it is changed there are several.
    if not any(hmac.compare_digest(expected, one.encode()) for one in headers.get("webhook-signature", "").split()):
        raise ValueError("the signature does not fit")
    if abs(now - int(t)) > 300:
        raise ValueError("too old, or of the future")
    return key


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that connections are used again

    def do_POST(self):
        length = int(self.headers.get("content-length", LIMIT + 1))
        if length > LIMIT:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            key = verify(self.headers, body, time.time())
        except ValueError as wrong:
            print("refused:", wrong, flush=True)
            return self.answer(401)
        with lock:
            if key in seen:
                print("seen before:", key, flush=True)
            else:
                print("accepted:", key, body[:60].decode(errors="replace"), flush=True)  # the work: quickly, or in a queue of your own
                seen[key] = True
                if len(seen) > 100_000:
                    del seen[next(iter(seen))]  # the oldest
        self.answer(200)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Receiver)
    print("listening on port", server.server_port, flush=True)
    server.serve_forever()
