// How the test hub words its answers.

/** An answer that is an error. */
export class HubError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   * @param {string} [code] as in X-Error-Code
   * @param {Record<string, string>} [headers]
   */
  constructor(status, message, code, headers = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.headers = headers;
  }
}

/** A whole answer at once. */
export function respond({ request, response, record }, status, headers = {}, body = "") {
  record.status = status;
  const bytes = Buffer.from(body);
  response.writeHead(status, {
    ...(bytes.length > 0 && { "content-type": "text/plain; charset=utf-8" }),
    ...(status !== 204 && status !== 304 && { "content-length": bytes.length }),
    ...headers,
  });
  if (request.method === "HEAD") {
    response.end();
    return;
  }
  record.sent = bytes.length;
  response.end(bytes);
}

/** Objects are JSON at the API's addresses, text where files are. */
export function respondError(context, { status, message, code, headers }) {
  const { host, kind } = context.record;
  if (host === "cdn") {
    respond(context, status, { ...headers, "content-type": "application/xml" }, `<Error>${message}</Error>`);
    return;
  }
  const told = { ...headers, "x-error-message": message, ...(code !== undefined && { "x-error-code": code }) };
  if (kind === "resolve" || kind === "cache") respond(context, status, told, message);
  else respondJson(context, { error: message }, told, status);
}

export function respondJson(context, value, headers = {}, status = 200) {
  respond(context, status, { "content-type": "application/json; charset=utf-8", ...headers }, JSON.stringify(value));
}

/** Lets the faults happen that come before an answer. True when there will be none. */
export async function befall({ response }, faults) {
  for (const fault of faults) {
    fault.reach();
    if (fault.kind === "hold") {
      await fault.released;
    } else if (fault.kind === "reset") {
      response.destroy();
      return true;
    } else {
      const limited = fault.value === 429;
      throw new HubError(
        fault.value,
        limited
          ? "We had to rate limit your IP. To continue using our service, log in or create a HF account."
          : "Internal Error - We're working hard to fix this as soon as possible!",
        undefined,
        {
          ...(limited && { ratelimit: '"resolvers";r=0;t=60' }),
          ...(fault.retryAfter !== undefined && { "retry-after": String(fault.retryAfter) }),
        },
      );
    }
  }
  return false;
}
