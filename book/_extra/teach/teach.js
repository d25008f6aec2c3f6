// "Teach it five things": five squares to learn from, one to recognize, and a file that does both.
(() => {
  const WAYS = 5;
  const PAUSE = 120; // ms between two answers while a stroke is being drawn
  const GLANCE = 400; // ms that each of twenty tasks is shown
  const root = document.getElementById("teach");
  const { runtime, pixels, tasks, learners } = Teach;
  if (runtime.missing()) return; // the page keeps what it shows without a script

  const view = new Teach.View(root, WAYS, learners);
  const pen = { get color() { return view.ink; }, get width() { return view.pen; } };
  const squares = view.canvases.map((canvas) => new Teach.Square(canvas, pen, changed));
  const [support, query] = [squares.slice(0, WAYS), squares[WAYS]];
  const state = { learner: learners[0], loaded: null, task: null, dealing: false };
  const score = { tasks: 0, learner: 0, nearest: 0 };
  const loaded = new Map();

  // A learner's files come when it is first needed, and stay.
  async function load(learner) {
    const { name } = learner;
    await runtime.start(root.dataset.runtime);
    await runtime.script(`${root.dataset.learners}/${name}.js`);
    const texts = Object.entries(Teach.files[name]);
    const files = Object.fromEntries(texts.map(([part, text]) => [part, runtime.bytes(text)]));
    const session = await runtime.session(files.learn);
    await session.run(feeds(learner)); // the first run also lays out memory: not what is shown
    return { files, session };
  }

  const softmax = (logits) => {
    const most = Math.max(...logits);
    const raised = logits.map((value) => Math.exp(value - most));
    const sum = raised.reduce((a, b) => a + b);
    return raised.map((value) => value / sum);
  };

  const look = (learner) => squares.map((square) => pixels.seen(square, learner));

  function feeds(learner, images = look(learner)) {
    return {
      support_x: runtime.images(images.slice(0, WAYS), learner),
      support_y: runtime.labels([...Array(WAYS).keys()]),
      query_x: runtime.images(images.slice(WAYS), learner),
    };
  }

  async function answer(finished) {
    const { learner, task, loaded } = state;
    const images = look(learner);
    const [five, one] = [images.slice(0, WAYS), images[WAYS]];
    view.seen(five, learner);
    const missing = support.findIndex((square) => square.empty);
    if (missing >= 0) return view.blank(`It learns from all five: square ${missing + 1} is empty.`);
    if (query.empty) return view.blank("Now draw one of the five again, in the sixth square.");
    const given = feeds(learner, images);
    const from = performance.now();
    const results = await loaded.session.run(given);
    const milliseconds = performance.now() - from;
    const logits = [...results.logits.data];
    const probabilities = softmax(logits);
    const best = probabilities.indexOf(Math.max(...probabilities));
    const nearest = pixels.nearest(one, five);
    const truth = task?.truth ?? null;
    view.answer({ probabilities, best, nearest, truth, milliseconds });
    if (task && !task.counted) count(task, best, nearest);
    if (finished) view.speak(`It says ${best + 1}, with ${Math.round(100 * probabilities[best])} percent.`);
    Teach.last = { learner: learner.name, five, one, logits, best, nearest, truth, milliseconds };
  }

  function count(task, best, nearest) {
    task.counted = true;
    score.tasks += 1;
    score.learner += best === task.truth;
    score.nearest += nearest === task.truth;
    view.tally(score);
  }

  // One answer at a time; what changed meanwhile is answered after it.
  let running = false;
  let again = false;
  async function update(finished = true) {
    if (!state.loaded) return;
    if (running) return void (again = true);
    running = true;
    await answer(finished).catch(failed);
    if (!finished) await pause(PAUSE);
    running = false;
    if (again) (again = false), update();
  }

  function changed(square, finished) {
    if (state.dealing) return;
    forget(); // nobody knows what is right now
    update(finished);
  }

  function forget() {
    state.task = null;
    view.name([]);
  }

  function failed(error) {
    view.blank(`That did not work: ${error.message}.`);
    console.error(error);
  }

  async function choose(learner) {
    const started = state.loaded !== null;
    Object.assign(state, { learner, loaded: null });
    Object.assign(score, { tasks: 0, learner: 0, nearest: 0 });
    view.learner(learner);
    view.tally(score);
    if (state.task && state.task.kind !== learner.pictures) await deal(learner.pictures);
    else if (state.task) state.task.counted = false;
    if (started) await begin();
  }

  async function begin() {
    const { learner } = state;
    view.starting();
    if (!loaded.has(learner)) loaded.set(learner, load(learner));
    const ready = await loaded.get(learner);
    if (state.learner !== learner) return; // another one was chosen meanwhile
    state.loaded = ready;
    view.started();
    await update();
  }

  async function deal(kind) {
    const task = await tasks.random(kind, WAYS);
    state.dealing = true;
    [...task.support, task.query].forEach((picture, i) => squares[i].show(picture));
    state.dealing = false;
    state.task = { ...task, kind, counted: false };
    view.name(task.names);
    await update();
  }

  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  // Slowly enough to be looked at, until somebody does something else.
  async function twenty() {
    if (!state.loaded) await begin();
    const kind = state.task?.kind ?? state.learner.pictures;
    for (let i = 0; i < 20; i++) {
      await deal(kind);
      const { task } = state;
      while (!task.counted && state.task === task) await pause(20);
      await pause(GLANCE);
      if (state.task !== task) return;
    }
  }

  function wipe() {
    for (const square of squares) square.clear();
    view.canvases[0].focus({ preventScroll: true });
  }

  function save(data, name) {
    const address = URL.createObjectURL(new Blob([data], { type: "application/octet-stream" }));
    Object.assign(document.createElement("a"), { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

  // The half that answers, with the weights of these five things put in.
  async function learned() {
    const { support_x, support_y } = feeds(state.learner);
    const { files } = state.loaded;
    const adapt = await runtime.session(files.adapt);
    const weights = await adapt.run({ support_x, support_y });
    await adapt.release();
    return Teach.onnxFile.filled(files.classify, weights);
  }

  const actions = {
    start: begin,
    emoji: () => deal("emoji"),
    glyphs: () => deal("glyphs"),
    twenty,
    wipe,
    async learner() {
      if (!state.loaded) await begin();
      save(state.loaded.files.learn, `${state.learner.name}.onnx`);
    },
    async learned() {
      if (support.some((square) => square.empty)) return view.say("Fill all five squares first.");
      if (!state.loaded) await begin();
      save(await learned(), `learned_with_${state.learner.name}.onnx`);
    },
  };

  root.addEventListener("click", (event) => {
    const what = event.target.closest("[data-do]")?.dataset.do;
    const place = event.target.closest("[data-square]");
    if (what in actions) Promise.resolve(actions[what]()).catch(failed);
    else if (place && what) squares[view.canvases.indexOf(place.querySelector("canvas"))][what]();
  });

  view.find("select").addEventListener("change", (event) =>
    choose(learners[event.target.value]).catch(failed),
  );

  for (const [i, canvas] of view.canvases.entries()) {
    const place = canvas.closest("[data-square]");
    Teach.photo.accept(place, (picture) => squares[i].show(picture), failed);
  }

  choose(state.learner);
  deal(state.learner.pictures).catch(failed);
  Teach.app = { squares, state, score, busy: () => running || again };
})();
