// An ONNX file is a protocol buffer: fields, each a number, a kind and a value. Nothing more is
// needed to turn inputs of a file into constants, and so what was learned into a file of its own.
(() => {
  const GRAPH = 7, INPUT = 11, INITIALIZER = 5, NAME = 1; // of a model, a graph, and an input
  const DIMS = 1, TYPE = 2, TENSOR_NAME = 8, RAW = 9; // of a tensor
  const TYPES = { float32: 1, int64: 7 };
  const NUMBER = 0, EIGHT = 1, BYTES = 2, FOUR = 5; // the kinds of a value

  function* fields(data) {
    let at = 0;
    const number = () => {
      for (let value = 0, factor = 1; ; factor *= 128) {
        const byte = data[at++];
        value += (byte & 127) * factor;
        if (byte < 128) return value;
      }
    };
    while (at < data.length) {
      const from = at;
      const key = number();
      const kind = key % 8;
      const length = { [EIGHT]: 8, [FOUR]: 4 }[kind] ?? number();
      const start = at;
      if (kind !== NUMBER) at += length;
      const [whole, value] = [data.subarray(from, at), data.subarray(start, at)];
      yield { field: (key - kind) / 8, kind, whole, value };
    }
  }

  function joined(parts) {
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    return all;
  }

  function varint(value) {
    const found = [];
    for (; value > 127; value = Math.floor(value / 128)) found.push((value % 128) | 128);
    return Uint8Array.from([...found, value]);
  }

  const number = (field, value) => joined([varint(field * 8 + NUMBER), varint(value)]);
  const block = (field, data) => joined([varint(field * 8 + BYTES), varint(data.length), data]);
  const text = (words) => new TextEncoder().encode(words);

  function constant(name, tensor) {
    const { buffer, byteOffset, byteLength } = tensor.data;
    const parts = [
      ...tensor.dims.map((size) => number(DIMS, size)),
      number(TYPE, TYPES[tensor.type]),
      block(TENSOR_NAME, text(name)),
      block(RAW, new Uint8Array(buffer, byteOffset, byteLength)),
    ];
    return block(INITIALIZER, joined(parts));
  }

  function nameOf(input) {
    const name = [...fields(input)].find(({ field }) => field === NAME);
    return new TextDecoder().decode(name.value);
  }

  // The same model, but inputs that `values` has a tensor for are constants.
  function filled(file, values) {
    const fill = ({ field, whole, value }) => {
      const name = field === INPUT ? nameOf(value) : null;
      return name in values ? constant(name, values[name]) : whole;
    };
    const parts = [...fields(file)].map(({ field, whole, value }) =>
      field === GRAPH ? block(GRAPH, joined([...fields(value)].map(fill))) : whole,
    );
    return joined(parts);
  }

  window.Teach ??= {};
  Teach.onnxFile = { filled };
})();
