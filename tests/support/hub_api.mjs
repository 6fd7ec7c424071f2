// The hub's JSON: models, their revisions, and what files they hold.
import { createHash } from "node:crypto";
import { befall, HubError, respondJson } from "./hub_http.mjs";

const NOT_FOUND = "Sorry, we can't find the page you are looking for.";

/**
 * Answers below /api/.
 *
 * @param {object} context of the request
 * @param {string[]} parts of the address, decoded
 */
export async function answerApi(context, parts) {
  const { record, request, hub } = context;
  const [type, ...rest] = parts;
  if (type !== "models") throw new HubError(404, NOT_FOUND);
  const verbs = ["revision", "tree", "paths-info", "refs", "xet-read-token"];
  // Names of old models have no owner.
  const length = rest.length === 1 || verbs.includes(rest[1]) ? 1 : 2;
  const [verb = "info", revision = "main", ...path] = rest.slice(length);
  record.kind = `api:${verb}`;
  const method = verb === "paths-info" ? ["POST"] : ["GET", "HEAD"];
  if (!method.includes(request.method)) throw new HubError(405, "Method Not Allowed");
  if (await befall(context, context.faults.answer("api", record.kind))) return;
  const { repo } = hub.repo(context, rest.slice(0, length).join("/"));
  if (verb === "refs") {
    respondJson(context, refs(repo));
    return;
  }
  const commit = hub.commit(context, repo, revision);
  if (verb === "info" || verb === "revision") await answerInfo(context, repo, commit);
  else if (verb === "tree") await answerTree(context, commit, revision, path.join("/"));
  else if (verb === "paths-info") await answerPaths(context, commit);
  else throw new HubError(404, NOT_FOUND);
}

function refs({ revisions }) {
  const branches = Object.entries(revisions).map(([name, commit]) => ({
    name,
    ref: `refs/heads/${name}`,
    targetCommit: commit,
  }));
  return { tags: [], branches, converts: [] };
}

async function answerInfo(context, repo, commit) {
  const { url, faults } = context;
  const visible = [...commit.files.values()].filter(({ path }) => faults.state("hide", path) === undefined);
  const siblings = [];
  for (const content of visible) {
    const sibling = { rfilename: content.path };
    if (url.searchParams.get("blobs")?.toLowerCase() === "true") {
      const { size, oid, lfs } = await commit.fileInfo(content);
      Object.assign(sibling, { blobId: oid, size });
      if (lfs !== undefined) sibling.lfs = { sha256: lfs.oid, size: lfs.size, pointerSize: lfs.pointerSize };
    }
    siblings.push(sibling);
  }
  const always = { _id: createHash("sha1").update(repo.name).digest("hex").slice(0, 24), id: repo.name };
  const fields = {
    private: repo.private ?? false,
    pipeline_tag: "text-to-image",
    library_name: "diffusers",
    tags: ["diffusers", "safetensors"],
    downloads: 0,
    likes: 0,
    modelId: repo.name,
    author: repo.name.split("/").at(-2),
    sha: commit.id,
    createdAt: "2024-01-01T00:00:00.000Z",
    lastModified: "2024-01-01T00:00:00.000Z",
    gated: repo.gated === true ? "auto" : (repo.gated ?? false),
    disabled: false,
    siblings,
  };
  // Whoever names fields gets these alone.
  const expand = url.searchParams.getAll("expand");
  const chosen =
    expand.length === 0 ? fields : Object.fromEntries(Object.entries(fields).filter(([name]) => expand.includes(name)));
  respondJson(context, { ...always, ...chosen });
}

const COMMIT = { title: "Upload files", date: "2024-01-01T00:00:00.000Z" };

async function visibleTree({ faults }, commit, expand) {
  const entries = (await commit.tree()).filter(
    ({ type, path }) => type === "directory" || faults.state("hide", path) === undefined,
  );
  return expand ? entries.map((entry) => ({ ...entry, lastCommit: { id: commit.id, ...COMMIT } })) : entries;
}

async function answerTree(context, commit, revision, folder) {
  const { url, hub } = context;
  const flag = (name) => url.searchParams.get(name)?.toLowerCase() === "true";
  const all = await visibleTree(context, commit, flag("expand"));
  const prefix = folder === "" ? "" : `${folder}/`;
  const below = all.filter(({ path }) => path.startsWith(prefix));
  if (folder !== "" && below.length === 0) {
    throw new HubError(404, `${folder} does not exist on "${revision}"`, "EntryNotFound");
  }
  const listed = flag("recursive") ? below : below.filter(({ path }) => !path.slice(prefix.length).includes("/"));
  const begin = Number(Buffer.from(url.searchParams.get("cursor") ?? "", "base64url").toString() || 0);
  const end = begin + Math.min(Number(url.searchParams.get("limit") ?? hub.options.pageSize), hub.options.pageSize);
  const headers = {};
  if (end < listed.length) {
    const next = new URL(`${hub.url}${url.pathname}${url.search}`);
    next.searchParams.set("cursor", Buffer.from(String(end)).toString("base64url"));
    headers.link = `<${next.href}>; rel="next"`;
  }
  respondJson(context, listed.slice(begin, end), headers);
}

async function answerPaths(context, commit) {
  const pieces = [];
  for await (const piece of context.request) pieces.push(piece);
  const text = Buffer.concat(pieces).toString();
  const form = new URLSearchParams(text);
  const json = context.request.headers["content-type"]?.startsWith("application/json");
  const { paths, expand } = json
    ? JSON.parse(text)
    : { paths: form.getAll("paths"), expand: form.get("expand")?.toLowerCase() === "true" };
  const entries = await visibleTree(context, commit, expand === true);
  respondJson(
    context,
    entries.filter(({ path }) => [paths].flat().includes(path)),
  );
}
