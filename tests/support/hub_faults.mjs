// What can be made to go wrong at the test hub. The kinds are described in hub_server.d.mts.

/** Before an answer. */
const ANSWER = ["status", "reset", "hold"];
/** Of the bytes: these belong to the last hop. */
const SHAPE = ["length", "no_ranges"];
const BODY = ["cut", "cut_each", "stall", "corrupt", "slow"];
/** Of what there is. */
const STATE = ["hide", "expire"];
/** These last until they are removed; the others happen once, if `times` does not say otherwise. */
const LASTING = [...SHAPE, ...STATE, "slow"];

/** A fault that was programmed, and what became of it. */
class Fault {
  hits = 0;
  /** @type {() => void} */
  #reached;
  /** @type {() => void} */
  release;
  hit = new Promise((resolve) => {
    this.#reached = resolve;
  });
  released = new Promise((resolve) => {
    this.release = resolve;
  });

  constructor(target, settings, remove) {
    const kinds = [...ANSWER, ...SHAPE, ...BODY, ...STATE].filter((kind) => settings[kind] !== undefined);
    if (kinds.length !== 1) throw new TypeError(`A fault is one of a kind, not ${kinds.join(" and ") || "none"}.`);
    this.target = target;
    this.kind = kinds[0];
    this.value = settings[this.kind];
    this.retryAfter = settings.retry_after;
    this.at = settings.at ?? (ANSWER.includes(this.kind) ? "resolve" : "content");
    this.left = settings.times ?? (LASTING.includes(this.kind) ? Number.POSITIVE_INFINITY : 1);
    this.remove = () => {
      remove(this);
      this.release();
    };
  }

  /** It has happened. */
  reach() {
    this.hits++;
    this.left--;
    this.#reached();
  }

  matches(path) {
    return this.target instanceof RegExp ? this.target.test(path) : this.target === path;
  }
}

export class Faults {
  /** @type {Fault[]} */
  #all = [];

  add(target, settings) {
    const fault = new Fault(target, settings, (gone) => {
      this.#all = this.#all.filter((other) => other !== gone);
    });
    this.#all.push(fault);
    return fault;
  }

  clear() {
    for (const fault of [...this.#all]) fault.remove();
  }

  /** The file is hidden, or how often its signed URLs hold: faults that are not used up. */
  state(kind, path) {
    return this.#all.find((fault) => fault.kind === kind && fault.matches(path));
  }

  /** What befalls an answer of a hop ("api", "resolve", "content") before anything is sent. */
  answer(at, path) {
    return this.#left(path, ({ kind, at: own }) => ANSWER.includes(kind) && (at === "api" || own === at));
  }

  /** What a file with bytes is taken for. */
  shape(path) {
    return this.#left(path, ({ kind }) => SHAPE.includes(kind));
  }

  /** What befalls the bytes on their way. */
  body(path) {
    return this.#left(path, ({ kind }) => BODY.includes(kind));
  }

  /** Whether a file's bytes are not to be sent as they are. */
  changes(path) {
    return this.#left(path, ({ kind }) => SHAPE.includes(kind) || BODY.includes(kind)).length > 0;
  }

  #left(path, accepts) {
    return this.#all.filter((fault) => fault.left > 0 && fault.matches(path) && accepts(fault));
  }
}
