"""A receiver of the Hub's webhooks: WEBHOOK_SECRET=... PORT=9000 python3 hub_receiver.py"""
import hashlib, hmac, os, threading, time, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"].encode()  # the 64 characters as text, not decoded
lock = threading.Lock()
LIMIT = 8 * 1024 * 1024
seen = {}  # keys of what was worked on; keep them in a database if doubles must not happen after a restart


def verify(headers, body, now):
    """The idempotency key of a genuine request; raises ValueError for any other."""
    key = headers.get("x-idempotency-key", "")
    topic, partition, offset = key.rsplit(":", 2)
    t, v1 = (part.partition("=")[2] for part in headers.get("x-webhook-signature", "").split(","))
    signed = "\n".join([t, topic, partition, offset, ""]).encode() + body
    if not hmac.compare_digest(hmac.new(SECRET, signed, hashlib.sha256).hexdigest().encode(), v1.encode()):
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
            if self.headers.get("content-encoding") == "gzip":
                body = zlib.decompressobj(31).decompress(body, LIMIT)  # what is signed is the body before compression
            key = verify(self.headers, body, time.time())
        except (ValueError, zlib.error) as wrong:
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
