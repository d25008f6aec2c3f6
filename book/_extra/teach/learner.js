// A learner at work: its ONNX file takes five images and one to recognize, and answers.
(() => {
  const { runtime } = Teach;

  function softmax(logits) {
    const most = Math.max(...logits);
    const raised = logits.map((value) => Math.exp(value - most));
    const sum = raised.reduce((a, b) => a + b);
    return raised.map((value) => value / sum);
  }

  class Learner {
    constructor(kind, files, session) {
      Object.assign(this, { kind, files, session });
    }

    // From the script that holds its files; only the one that answers becomes a session at once.
    static async load(kind, folder) {
      await runtime.script(`${folder}/${kind.name}.js`);
      const texts = Object.entries(Teach.files[kind.name]);
      const files = Object.fromEntries(texts.map(([part, text]) => [part, runtime.bytes(text)]));
      const learner = new Learner(kind, files, await runtime.session(files.learn));
      const paper = new Float32Array(kind.channels * kind.size ** 2);
      await learner.answer(Array(5).fill(paper), paper); // the first run also lays out memory
      return learner;
    }

    support(images) {
      return {
        support_x: runtime.images(images, this.kind),
        support_y: runtime.labels([...images.keys()]),
      };
    }

    async answer(images, image) {
      const given = { ...this.support(images), query_x: runtime.images([image], this.kind) };
      const from = performance.now();
      const results = await this.session.run(given);
      const milliseconds = performance.now() - from;
      const logits = [...results.logits.data];
      const probabilities = softmax(logits);
      const best = probabilities.indexOf(Math.max(...probabilities));
      return { logits, probabilities, best, milliseconds };
    }

    // The half of it that answers, with the weights of these images put in.
    async learned(images) {
      const adapt = await runtime.session(this.files.adapt);
      const weights = await adapt.run(this.support(images));
      await adapt.release();
      return Teach.onnxFile.filled(this.files.classify, weights);
    }
  }

  Teach.Learner = Learner;
})();
