// A hub on this machine: the HTTP of huggingface.co as huggingface_hub and @huggingface/hub use it. Plain JavaScript
// without dependencies: Python's check and the benchmarks run it as it is (hub_server_cli.mjs).
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { answerApi } from "./hub_api.mjs";
import { Commit } from "./hub_content.mjs";
import { Faults } from "./hub_faults.mjs";
import { answerCache, answerCdn, answerResolve } from "./hub_files.mjs";
import { HubError, respond, respondError } from "./hub_http.mjs";

/** What the hub lets scripts of other origins read: neither Retry-After nor RateLimit. */
const EXPOSED =
  "X-Repo-Commit,X-Request-Id,X-Error-Code,X-Error-Message,X-Total-Count,ETag,Link,Accept-Ranges,Content-Range,X-Linked-Size,X-Linked-ETag,X-Xet-Hash";

/** See hub_server.d.mts. */
export async function startHub(options) {
  const hub = new Hub(options);
  await hub.online();
  return hub;
}

class Hub {
  /** @type {object[]} */
  requests = [];
  /** What signed URLs lead to, by signature. */
  signed = new Map();
  options;
  #repos = new Map();
  #faults = new Faults();
  #servers;
  #ports;

  constructor(options) {
    this.options = { pageSize: 1000, signedFor: 3600, compress: true, tokens: { hf_test: true }, ...options };
    for (const [name, repo] of Object.entries(options.repos)) this.setRepo(name, repo);
    this.#ports = [options.port ?? 0, 0];
    this.#servers = ["hub", "cdn"].map((host) => {
      const server = createServer((request, response) => this.#answer(host, request, response));
      // A client would take up a connection that the server closes as idle at that moment.
      server.keepAliveTimeout = 0;
      return server;
    });
  }

  get url() {
    return `http://127.0.0.1:${this.#ports[0]}`;
  }

  get cdn() {
    return `http://127.0.0.1:${this.#ports[1]}`;
  }

  get leaks() {
    return this.requests.filter(({ host, headers }) => host === "cdn" && headers.authorization !== undefined);
  }

  setRepo(name, { commits, revisions, ...settings }) {
    const made = Object.entries(commits).map(([id, files]) => [id, new Commit(id, files, this.options.lfsAbove)]);
    this.#repos.set(name, { name, revisions: { ...revisions }, commits: new Map(made), ...settings });
  }

  setRevision(name, revision, commit) {
    this.#repos.get(name).revisions[revision] = commit;
  }

  fault(target, settings) {
    return this.#faults.add(target, settings);
  }

  clearFaults() {
    this.#faults.clear();
  }

  async online() {
    for (const [index, server] of this.#servers.entries()) {
      if (server.listening) continue;
      await new Promise((resolve, reject) => {
        server.once("error", reject);
        server.listen(this.#ports[index], "127.0.0.1", () => {
          server.off("error", reject);
          resolve();
        });
      });
      this.#ports[index] = server.address().port;
    }
  }

  async offline() {
    for (const server of this.#servers) {
      if (!server.listening) continue;
      await new Promise((resolve) => {
        server.close(resolve);
        server.closeAllConnections();
      });
    }
  }

  async close() {
    await this.offline();
    this.clearFaults();
  }

  /** The repository, for those who may know of it. */
  repo(context, name) {
    context.record.repo = name;
    const token = context.request.headers.authorization?.replace(/^Bearer\s+/i, "");
    const grant = token === undefined ? [] : this.options.tokens[token];
    if (grant === undefined) throw new HubError(401, "Invalid credentials in Authorization header");
    const granted = grant === true || grant.includes(name);
    const repo = this.#repos.get(name);
    if (repo === undefined || (repo.private === true && !granted)) {
      throw token === undefined
        ? new HubError(401, "Invalid username or password.", "RepoNotFound")
        : new HubError(404, "Repository not found", "RepoNotFound");
    }
    return { repo, mayRead: () => this.#mayRead(repo, granted, token) };
  }

  #mayRead(repo, granted, token) {
    if (repo.gated !== true || granted) return;
    const message = `Access to model ${repo.name} is restricted. You must have access to it and be authenticated to access it. Please log in.`;
    throw new HubError(token === undefined ? 401 : 403, message, "GatedRepo");
  }

  /** The commit that a revision is at. */
  commit(context, repo, revision) {
    context.record.revision = revision;
    const id = repo.commits.has(revision) ? revision : repo.revisions[revision === "HEAD" ? "main" : revision];
    const commit = id === undefined ? undefined : repo.commits.get(id);
    if (commit === undefined) throw new HubError(404, `Invalid rev id: ${revision}`, "RevisionNotFound");
    return commit;
  }

  async #answer(host, request, response) {
    const url = new URL(request.url, "http://localhost");
    const record = {
      host,
      method: request.method,
      url: request.url,
      query: url.searchParams,
      headers: request.headers,
      kind: "unknown",
      repo: undefined,
      revision: undefined,
      file: undefined,
      status: 0,
      sent: 0,
      ended: false,
    };
    this.requests.push(record);
    response.on("close", () => {
      record.ended = response.writableFinished;
    });
    // What is known of a request while it is answered.
    const context = { hub: this, url, request, response, record, faults: this.#faults };
    try {
      allow(context);
      if (request.method === "OPTIONS") {
        record.kind = "preflight";
        respond(context, 204);
      } else if (host === "cdn") await answerCdn(context);
      else await this.#route(context);
    } catch (error) {
      if (response.headersSent) response.destroy();
      else if (error instanceof HubError) respondError(context, error);
      else respondError(context, new HubError(500, String(error?.stack)));
    }
  }

  async #route(context) {
    const parts = context.url.pathname.slice(1).split("/").map(decodeURIComponent);
    if (parts[0] !== "api") await answerResolve(context, parts);
    else if (parts[1] === "resolve-cache") await answerCache(context, parts.slice(3));
    else await answerApi(context, parts.slice(1));
  }
}

/** What pages of other origins may do. */
function allow({ request, response, record }) {
  if (record.host === "cdn") {
    response.setHeader("access-control-allow-origin", "*");
    response.setHeader("access-control-expose-headers", "*");
  } else {
    response.setHeader("access-control-allow-origin", request.headers.origin ?? "https://huggingface.co");
    response.setHeader("access-control-expose-headers", EXPOSED);
    response.setHeader("vary", "Origin");
    response.setHeader("x-request-id", `Root=1-${randomBytes(12).toString("hex")}`);
  }
  if (request.method !== "OPTIONS") return;
  response.setHeader("access-control-allow-methods", "GET,HEAD,POST");
  response.setHeader("access-control-max-age", "86400");
  const asked = request.headers["access-control-request-headers"];
  if (asked !== undefined) response.setHeader("access-control-allow-headers", asked);
}
