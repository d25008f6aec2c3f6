// onnxruntime in a page opened from disk, where nothing may be fetched and no worker started:
// its WebAssembly and its module come in scripts, and run on one thread.
(() => {
  const scripts = new Map();

  function script(address) {
    if (!scripts.has(address)) {
      const loaded = new Promise((resolve, reject) => {
        const element = Object.assign(document.createElement("script"), { src: address });
        element.onload = resolve;
        element.onerror = () => {
          scripts.delete(address); // the next one may be
          reject(new Error(`${address} cannot be read`));
        };
        document.head.append(element);
      });
      scripts.set(address, loaded);
    }
    return scripts.get(address);
  }

  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  function gunzip(base64) {
    const packed = new Blob([bytes(base64.replaceAll(/\s/g, ""))]).stream();
    return new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  }

  let ort = null;

  // What this browser lacks, or nothing.
  function missing() {
    if (typeof WebAssembly !== "object") return "WebAssembly";
    if (typeof DecompressionStream !== "function") return "DecompressionStream";
    return null;
  }

  async function start(folder) {
    if (ort) return;
    await script(`${folder}/onnxruntime.js`);
    const { module, wasm } = window.ONNXRUNTIME;
    const source = new Blob([await gunzip(module)], { type: "text/javascript" });
    const address = URL.createObjectURL(source);
    const imported = await import(address);
    URL.revokeObjectURL(address);
    Object.assign(imported.env.wasm, { wasmBinary: await gunzip(wasm), numThreads: 1, proxy: false });
    imported.env.logLevel = "error";
    delete window.ONNXRUNTIME;
    ort = imported;
  }

  const session = (file) => ort.InferenceSession.create(file, { executionProviders: ["wasm"] });

  const tensor = (type, data, shape) => new ort.Tensor(type, data, shape);

  // Images [N, C, H, W] of numbers in 0..1.
  function images(list, { channels, size }) {
    const data = new Float32Array(list.length * channels * size * size);
    list.forEach((image, i) => data.set(image, i * image.length));
    return tensor("float32", data, [list.length, channels, size, size]);
  }

  const labels = (list) => tensor("int64", BigInt64Array.from(list, BigInt), [list.length]);

  window.Teach ??= {};
  Teach.runtime = { missing, script, bytes, start, session, images, labels };
})();
