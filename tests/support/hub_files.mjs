// A file's way from the test hub: /resolve leads to the CDN for large files, and for small ones to a cache of the hub.
import { createHash, randomBytes } from "node:crypto";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { sendContent } from "./hub_body.mjs";
import { befall, HubError, respond } from "./hub_http.mjs";

const XET_INFO = "application/vnd.xet-fileinfo+json";

/** /owner/name/resolve/revision/path; names of old models have no owner. */
export async function answerResolve(context, parts) {
  const { hub, record, request, faults } = context;
  const verb = parts[1] === "resolve" ? 1 : 2;
  if (parts[verb] !== "resolve") throw new HubError(404, "Not Found");
  record.kind = "resolve";
  record.file = parts.slice(verb + 2).join("/");
  const { repo, mayRead } = hub.repo(context, parts.slice(0, verb).join("/"));
  if (await befall(context, faults.answer("resolve", record.file))) return;
  mayRead();
  const commit = hub.commit(context, repo, parts[verb + 1]);
  const content = contentOf(context, commit, record.file);
  const info = await commit.fileInfo(content);
  const headers = {
    "accept-ranges": "bytes",
    "cache-control": "no-cache",
    "x-repo-commit": commit.id,
    "x-linked-size": info.size,
    "x-linked-etag": `"${info.etag}"`,
  };
  if (info.lfs === undefined) {
    const path = record.file.split("/").map(encodeURIComponent).join("/");
    const etag = encodeURIComponent(`"${info.etag}"`);
    const asked = encodeURIComponent(context.url.pathname);
    const location = `/api/resolve-cache/models/${repo.name}/${commit.id}/${path}?${asked}=&etag=${etag}`;
    respond(context, 307, { ...headers, location }, `Temporary Redirect. Redirecting to ${location}`);
    return;
  }
  headers["x-xet-hash"] = info.xetHash;
  const refreshUrl = `${hub.url}/api/models/${repo.name}/xet-read-token/${commit.id}`;
  const reconstructionUrl = `${hub.cdn}/v1/reconstructions/${info.xetHash}`;
  headers.link = `<${refreshUrl}>; rel="xet-auth", <${reconstructionUrl}>; rel="xet-reconstruction-info"`;
  if (request.headers.accept?.includes(XET_INFO)) {
    const body = { hash: info.xetHash, refreshUrl, reconstructionUrl };
    respond(context, 200, { ...headers, "content-type": XET_INFO }, JSON.stringify(body));
    return;
  }
  const location = sign(context, repo, commit, content, info);
  respond(context, 302, { ...headers, location }, `Found. Redirecting to ${location}`);
}

function contentOf({ record, faults }, commit, path) {
  record.file = path;
  const content = commit.files.get(path);
  const hidden = faults.state("hide", path);
  hidden?.reach();
  if (content !== undefined && hidden === undefined) return content;
  throw new HubError(404, "Entry not found", "EntryNotFound", { "x-repo-commit": commit.id });
}

/** An address at the CDN that holds for a while. */
function sign({ hub, faults }, repo, commit, content, { xetHash }) {
  const uses = faults.state("expire", content.path)?.value ?? Number.POSITIVE_INFINITY;
  const expires = Math.floor(Date.now() / 1000) + hub.options.signedFor;
  const signature = randomBytes(16).toString("hex");
  hub.signed.set(signature, { repo, content, commit, xetHash, uses, expires });
  const query = new URLSearchParams({
    "response-content-disposition": `inline; filename="${nameOf(content)}";`,
    Expires: String(expires),
    Signature: signature,
    "Key-Pair-Id": "TEST",
  });
  const id = createHash("sha1").update(repo.name).digest("hex").slice(0, 24);
  return `${hub.cdn}/xet-bridge-us/${id}/${xetHash}?${query}`;
}

const nameOf = ({ path }) => path.split("/").at(-1);

/** A large file, for whoever has an address that is signed, and nothing more than that. */
export async function answerCdn(context) {
  const { hub, record, request, url, faults } = context;
  record.kind = "cdn";
  const signed = hub.signed.get(url.searchParams.get("Signature") ?? "");
  if (signed === undefined) throw new HubError(403, "<Code>AccessDenied</Code>");
  const { repo, content, commit, xetHash } = signed;
  Object.assign(record, { repo: repo.name, revision: commit.id, file: content.path });
  if (request.headers.authorization !== undefined) {
    throw new HubError(400, "<Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message>");
  }
  if (await befall(context, faults.answer("content", content.path))) return;
  if (signed.uses <= 0 || Date.now() / 1000 >= signed.expires) {
    faults.state("expire", content.path)?.reach();
    throw new HubError(403, "<Code>AccessDenied</Code><Message>Request has expired</Message>");
  }
  signed.uses--;
  await sendContent(context, content, {
    etag: `"${xetHash}"`,
    "content-type": "application/octet-stream",
    "content-disposition": `inline; filename="${nameOf(content)}";`,
    "x-cache": "Miss from cloudfront",
  });
}

/** A small file: owner/name/commit/path. */
export async function answerCache(context, parts) {
  const { hub, record, request, faults } = context;
  record.kind = "cache";
  const length = /^[0-9a-f]{40}$/.test(parts[1]) ? 1 : 2;
  const { repo, mayRead } = hub.repo(context, parts.slice(0, length).join("/"));
  mayRead();
  const commit = hub.commit(context, repo, parts[length]);
  const content = contentOf(context, commit, parts.slice(length + 1).join("/"));
  if (await befall(context, faults.answer("content", content.path))) return;
  const { etag } = await commit.fileInfo(content);
  const headers = {
    etag: `"${etag}"`,
    "x-repo-commit": commit.id,
    "content-type": content.path.endsWith(".json") ? "application/json" : "text/plain; charset=utf-8",
  };
  if (request.headers["if-none-match"]?.includes(etag)) respond(context, 304, headers);
  else if (isCompressed(context, content)) await sendCompressed(context, content, headers);
  else await sendContent(context, content, headers);
}

/** CloudFront compresses small texts on their way, and then knows neither their length nor ranges. */
function isCompressed({ hub, request, faults }, content) {
  return (
    hub.options.compress &&
    content.size >= 1000 &&
    /\.(json|txt|md)$/.test(content.path) &&
    request.headers.range === undefined &&
    (request.headers["accept-encoding"] ?? "").includes("gzip") &&
    !faults.changes(content.path)
  );
}

async function sendCompressed({ request, response, record }, content, headers) {
  record.status = 200;
  response.writeHead(200, { ...headers, etag: `W/${headers.etag}`, "content-encoding": "gzip" });
  if (request.method === "HEAD") {
    response.end();
    return;
  }
  const gzip = createGzip();
  gzip.on("data", (piece) => {
    record.sent += piece.length;
  });
  await pipeline(content.chunks(0, content.size), gzip, response);
}
