/** What a test wants to know of an ONNX file, read by other code than wrote it. */
export interface OnnxNode {
  readonly type: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
}

type Field = { readonly number: number; readonly value: number | Uint8Array };

function* fields(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    let factor = 1;
    for (;;) {
      const byte = bytes[at++]!;
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const number = Math.floor(key / 8);
    if (key % 8 === 0) yield { number, value: varint() };
    else if (key % 8 === 5) {
      yield { number, value: bytes.subarray(at, at + 4) };
      at += 4;
    } else {
      const length = varint();
      yield { number, value: bytes.subarray(at, at + length) };
      at += length;
    }
  }
}

function strings(message: readonly Field[], number: number): string[] {
  return message
    .filter((field) => field.number === number)
    .map((field) => new TextDecoder().decode(field.value as Uint8Array));
}

/** The operators of a model, in order. */
export function onnxNodes(model: Uint8Array): readonly OnnxNode[] {
  const graph = [...fields(model)].find((field) => field.number === 7)!.value as Uint8Array;
  return [...fields(graph)]
    .filter((field) => field.number === 1)
    .map((field) => {
      const node = [...fields(field.value as Uint8Array)];
      return {
        type: strings(node, 4)[0]!,
        domain: strings(node, 7)[0] ?? "",
        inputs: strings(node, 1),
        outputs: strings(node, 2),
      };
    });
}
