// A receiver of the Hub's webhooks: WEBHOOK_SECRET=... PORT=9000 node hub_receiver.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import { gunzipSync } from "node:zlib";

const SECRET = process.env.WEBHOOK_SECRET; // the 64 characters as text, not decoded
const LIMIT = 8 * 1024 * 1024;
const seen = new Set(); // keys of what was worked on; keep them in a database if doubles must not happen after a restart

/** The idempotency key of a genuine request; throws for any other. */
function verify(headers, body, now) {
  const key = headers["x-idempotency-key"] ?? "";
  const [, topic, partition, offset] = /^(.*):(\d+):(\d+)$/.exec(key) ?? [];
  const [, t, v1] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(headers["x-webhook-signature"] ?? "") ?? [];
  if (offset === undefined || v1 === undefined) throw new Error("unsigned");
  const expected = createHmac("sha256", SECRET).update([t, topic, partition, offset, ""].join("\n")).update(body).digest();
  if (!timingSafeEqual(expected, Buffer.from(v1, "hex"))) throw new Error("the signature does not fit");
  if (Math.abs(now - Number(t)) > 300) throw new Error("too old, or of the future");
  return key;
}

async function read(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > LIMIT) throw new Error("too large");
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks);
  // What is signed is the body before compression.
  return request.headers["content-encoding"] === "gzip" ? gunzipSync(body, { maxOutputLength: LIMIT }) : body;
}

const server = createServer(async (request, response) => {
  try {
    const body = await read(request);
    const key = verify(request.headers, body, Date.now() / 1000);
    if (seen.has(key)) {
      console.log("seen before:", key);
    } else {
      console.log("accepted:", key, body.toString().slice(0, 60)); // the work: quickly, or in a queue of your own
      seen.add(key);
      if (seen.size > 100_000) seen.delete(seen.values().next().value); // the oldest
    }
    response.writeHead(200).end();
  } catch (wrong) {
    console.log("refused:", wrong.message);
    response.writeHead(401).end();
  }
});
server.listen(Number(process.env.PORT ?? 9000), "127.0.0.1", () => console.log("listening on port", server.address().port));
