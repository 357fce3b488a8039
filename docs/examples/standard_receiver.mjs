// A receiver of Standard Webhooks: WEBHOOK_SECRET=whsec_... PORT=9000 node standard_receiver.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const SECRET = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");
const LIMIT = 8 * 1024 * 1024;
const seen = new Set(); // keys of what was worked on; keep them in a database if doubles must not happen after a restart

/** The id of a genuine request; throws for any other. */
function verify(headers, body, now) {
  const { "webhook-id": key = "", "webhook-timestamp": t = "", "webhook-signature": signatures = "" } = headers;
  const digest = createHmac("sha256", SECRET).update(`${key}.${t}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${digest}`);
  // One for each secret that is live: while it is changed there are several.
  const fits = signatures.split(" ").map((one) => Buffer.from(one)).some((one) => one.length === expected.length && timingSafeEqual(one, expected));
  if (!fits) throw new Error("the signature does not fit");
  if (!(Math.abs(now - Number(t)) <= 300)) throw new Error("too old, or of the future");
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
  return Buffer.concat(chunks);
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
