import { listFiles, modelInfo } from "@huggingface/hub";
import { IntegrityError, ModelNotFoundError } from "../errors.ts";
import { isTransientStatus, retry, serverWait, type TransferPolicy, Transient } from "./retry.ts";
import type { FileInfo } from "./source.ts";
import { type Remote, unreachable } from "./stream.ts";

/** Branches that once held what are variants of the weights today. */
const formerBranches = ["fp16", "non-ema"];

/** What is asked, for the words of an error. */
interface Asked {
  readonly revision: string;
  readonly path?: string;
}

/** One repository of a hub. */
export class HubApi {
  private readonly headers: Readonly<Record<string, string>>;

  constructor(
    /** Without a slash at its end. */
    private readonly endpoint: string,
    private readonly repo: string,
    private readonly token: string | undefined,
    private readonly fetch: typeof globalThis.fetch,
    private readonly policy: TransferPolicy,
  ) {
    this.headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  /**
   * The commit that a revision is at.
   *
   * @throws ModelNotFoundError when there is no such repository or revision, it may not be read, or the hub is out of reach.
   */
  async commit(revision: string, signal: AbortSignal | undefined): Promise<string> {
    const { sha } = await modelInfo({
      name: this.repo,
      revision,
      hubUrl: this.endpoint,
      additionalFields: ["sha"],
      fetch: this.#fetchFor({ revision }, signal),
    });
    // It becomes part of addresses and of folder names.
    if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha)) {
      throw new IntegrityError(`${this.endpoint} did not say which commit ${revision} of ${this.repo} is at.`, {
        found: String(sha),
        expected: "40 hexadecimal digits",
      });
    }
    return sha;
  }

  /**
   * All files of a commit.
   *
   * @throws ModelNotFoundError as {@link commit} does.
   */
  async list(commit: string, signal: AbortSignal | undefined): Promise<FileInfo[]> {
    const files: FileInfo[] = [];
    const entries = listFiles({
      repo: { type: "model", name: this.repo },
      revision: commit,
      recursive: true,
      hubUrl: this.endpoint,
      fetch: this.#fetchFor({ revision: commit }, signal),
    });
    for await (const { type, path, size, oid, lfs } of entries) {
      if (type !== "file") continue;
      files.push({
        path,
        size: lfs?.size ?? size,
        ...(lfs !== undefined && { sha256: lfs.oid }),
        ...(oid !== undefined && { oid }),
      });
    }
    return files;
  }

  /** Where a file is downloaded from. The hub redirects to where its bytes are. */
  remote(commit: string, { path, size }: FileInfo): Remote {
    return {
      url: `${this.endpoint}/${this.repo}/resolve/${commit}/${path.split("/").map(encodeURIComponent).join("/")}`,
      path,
      size,
      fetch: this.fetch,
      headers: this.headers,
      refused: (response) => this.#refusal(response, { revision: commit, path }),
    };
  }

  /** A `fetch` for @huggingface/hub, which itself neither retries nor can be cancelled, and has one error for all. */
  #fetchFor(asked: Asked, signal: AbortSignal | undefined): typeof globalThis.fetch {
    const { fetch, policy } = this;
    return (input, init) => {
      const url = String(input);
      // The next page's address is the server's choice: the token goes to the hub only.
      const own = new URL(url).origin === new URL(this.endpoint).origin ? this.headers : {};
      const headers = { ...(init?.headers as Record<string, string> | undefined), ...own };
      return retry(
        async (trial) => {
          let response: Response;
          let text: string;
          try {
            response = await trial.wait(fetch(url, { headers, signal: trial.signal }));
            text = await trial.wait(response.text());
          } catch (cause) {
            throw new Transient(unreachable(url, undefined, cause));
          }
          if (isTransientStatus(response.status)) {
            throw new Transient(this.#refusal(response, asked), serverWait(response));
          }
          if (!response.ok) throw this.#refusal(response, asked);
          checkJson(text, url);
          return new Response(text, { headers: response.headers });
        },
        policy,
        policy.firstTries,
        signal,
      );
    };
  }

  #refusal(response: Response, { revision, path }: Asked): ModelNotFoundError {
    const { endpoint, repo, token } = this;
    const { status } = response;
    const code = response.headers.get("x-error-code");
    const page = `${endpoint}/${repo}`;
    const details = {
      found: `HTTP ${status}${code === null ? "" : ` ${code}`}`,
      ...(path !== undefined && { file: path }),
    };
    const error = (message: string): ModelNotFoundError => new ModelNotFoundError(message, details);
    if (code === "GatedRepo") {
      return error(
        `${repo} is gated. Accept its licence at ${page}, ` +
          (token === undefined
            ? "then pass { token } of that account."
            : "with the account whose { token } is passed: it has no access yet."),
      );
    }
    if (status === 401 || status === 403) {
      return error(
        `${endpoint} refuses ${repo} (HTTP ${status}): there is no such repository, or it is private or gated. ` +
          (token === undefined
            ? `Check its name; accept the licence at ${page} if it has one, and pass { token }.`
            : "Check its name, and that the { token } is valid and its account has access."),
      );
    }
    if (code === "RevisionNotFound") {
      const advice = formerBranches.includes(revision)
        ? `Such weights are a variant today: pass { variant: ${JSON.stringify(revision)} } instead of { revision }.`
        : `See ${page}/tree/main for those there are.`;
      return error(`${repo} has no branch, tag or commit ${JSON.stringify(revision)}. ${advice}`);
    }
    if (path !== undefined && (code === "EntryNotFound" || (status === 404 && code === null))) {
      return error(`${repo} has no file ${path} at ${revision}, although the hub lists it. Try again later.`);
    }
    if (status === 404) return error(`There is no model repository ${repo} at ${endpoint}. Check its name.`);
    const advice = isTransientStatus(status) ? "Try again later." : "Check the endpoint.";
    return error(`${endpoint} answered ${`${status} ${response.statusText}`.trim()} when asked for ${repo}. ${advice}`);
  }
}

/** Networks with a login page answer everything with that page. */
function checkJson(text: string, url: string): void {
  try {
    JSON.parse(text);
  } catch (cause) {
    throw new IntegrityError(
      `${url} answered with something else than JSON. Check the endpoint, and whether this network asks for a login first.`,
      { found: text.slice(0, 60), expected: "JSON" },
      { cause },
    );
  }
}
