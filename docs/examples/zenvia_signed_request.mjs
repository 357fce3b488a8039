// A request with a signature token: TOKEN=... TOKEN_SECRET=... node zenvia_signed_request.mjs METHOD URL [JSON]
import { createHash, createHmac } from "node:crypto";

/** The headers of a request whose body is this text (none: empty). */
function signed(method, url, body, token, secret) {
  const { hostname, pathname, search } = new URL(url);
  const date = new Date().toUTCString();
  const contentType = body ? "application/json" : "";
  const md5 = body ? createHash("md5").update(body).digest("hex") : "";
  const lines = [method, md5, contentType, date, hostname, pathname + search].join("\n");
  const signature = createHmac("sha256", secret).update(lines).digest("base64");
  return { "X-API-Token": token, "X-API-Signature": signature, Date: date, ...(body && { "Content-Type": contentType }) };
}

const [, , method, url, body = ""] = process.argv;
const headers = signed(method, url, body, process.env.TOKEN, process.env.TOKEN_SECRET);
const answer = await fetch(url, { method, headers, body: body || undefined });
console.log(answer.status, await answer.text());
process.exitCode = answer.ok ? 0 : 1;
