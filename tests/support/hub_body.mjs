// The bytes of a file of the test hub, in ranges, and what may befall them on the way.
import { once } from "node:events";
import { setTimeout } from "node:timers/promises";

/** How the faults make a file look. */
function shapeOf(faults, content) {
  const shape = { size: content.size, ranges: true };
  for (const fault of faults.shape(content.path)) {
    fault.reach();
    if (fault.kind === "length") shape.size = fault.value;
    else shape.ranges = false;
  }
  return shape;
}

/** One range of bytes; undefined where the header asks for none that is known, null where there are no such bytes. */
function rangeOf(header, size) {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(header ?? "") ?? [];
  if (first === undefined || (first === "" && last === "")) return undefined;
  if (first !== "" && last !== "" && Number(last) < Number(first)) return undefined;
  const begin = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size : Math.min(size, Number(last) + 1);
  return begin >= end ? null : { begin, end };
}

/** Answers with the file or the range of it that was asked for. */
export async function sendContent({ request, response, record, faults }, content, headers) {
  const { size, ranges } = shapeOf(faults, content);
  const told = { ...headers, ...(ranges && { "accept-ranges": "bytes" }) };
  const condition = request.headers["if-range"];
  const wanted = ranges && (condition === undefined || condition === headers.etag);
  const range = wanted ? rangeOf(request.headers.range, size) : undefined;
  if (range === null) {
    record.status = 416;
    response.writeHead(416, { ...told, "content-range": `bytes */${size}`, "content-length": 0 }).end();
    return;
  }
  const { begin, end } = range ?? { begin: 0, end: size };
  record.status = range === undefined ? 200 : 206;
  response.writeHead(record.status, {
    ...told,
    "content-length": end - begin,
    ...(range !== undefined && { "content-range": `bytes ${begin}-${end - 1}/${size}` }),
  });
  if (request.method === "HEAD") {
    response.end();
    return;
  }
  response.flushHeaders();
  const gone = new AbortController();
  response.once("close", () => gone.abort());
  try {
    await sendBytes(response, record, content, begin, end, faults.body(content.path), gone.signal);
  } catch (error) {
    // The client went away, which is no failure of the hub.
    if (!gone.signal.aborted) throw error;
  }
}

/** Where what happens on the way from `begin` to `end`, in order. */
function eventsOf(faults, begin, end) {
  return faults
    .filter(({ kind }) => kind !== "slow")
    .map((fault) => ({ fault, at: fault.kind === "cut_each" ? begin + fault.value : fault.value }))
    .filter(({ at }) => at >= begin && at < end)
    .sort((a, b) => a.at - b.at);
}

async function sendBytes(response, record, content, begin, end, faults, gone) {
  const events = eventsOf(faults, begin, end);
  const slow = faults.find(({ kind }) => kind === "slow");
  slow?.reach();
  // Twenty pieces a second.
  const most = slow === undefined ? Number.POSITIVE_INFINITY : Math.max(1, Math.floor(slow.value / 20));

  const write = async (piece) => {
    if (slow !== undefined) await setTimeout((piece.length / slow.value) * 1000, undefined, { signal: gone });
    // Before a place where something happens, what was sent must have left this process.
    if (events[0]?.at === record.sent + begin + piece.length) {
      await Promise.race([new Promise((resolve) => response.write(piece, resolve)), aborted(gone)]);
    } else if (!response.write(piece)) {
      await once(response, "drain", { signal: gone });
    }
    gone.throwIfAborted();
    record.sent += piece.length;
  };
  /** Lets happen what happens before a byte; what becomes of the byte, or undefined for the end of the connection. */
  const happen = async (byte) => {
    let changed = byte;
    while (events[0]?.at === begin + record.sent) {
      const { fault } = events.shift();
      if (fault.left <= 0) continue;
      fault.reach();
      if (fault.kind === "corrupt") {
        changed ^= 0xff;
      } else if (fault.kind === "stall") {
        await Promise.race([fault.released, aborted(gone)]);
        gone.throwIfAborted();
      } else {
        response.destroy();
        return undefined;
      }
    }
    return changed;
  };
  /** True when the connection was cut. */
  const send = async (chunk) => {
    let rest = chunk;
    while (rest.length > 0) {
      const byte = await happen(rest[0]);
      if (byte === undefined) return true;
      const next = (events[0]?.at ?? Number.POSITIVE_INFINITY) - begin - record.sent;
      let piece = rest.subarray(0, Math.min(rest.length, next, most));
      rest = rest.subarray(piece.length);
      if (byte !== piece[0]) {
        piece = Uint8Array.from(piece);
        piece[0] = byte;
      }
      await write(piece);
    }
    return false;
  };
  for await (const chunk of content.chunks(begin, Math.min(end, content.size))) if (await send(chunk)) return;
  // A file that is said to be longer than it is.
  while (begin + record.sent < end) {
    if (await send(new Uint8Array(Math.min(end - begin - record.sent, 65_536)))) return;
  }
  response.end();
}

function aborted(signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", resolve, { once: true });
  });
}
