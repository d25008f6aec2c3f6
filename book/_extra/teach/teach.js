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
  const state = { learner: learners[0], started: false, loaded: null, task: null, dealing: false };
  const score = { tasks: 0, learner: 0, nearest: 0 };
  const loaded = new Map(); // learners stay once they were needed

  const look = (learner) => squares.map((square) => pixels.seen(square, learner));

  async function answer(finished) {
    const { learner, task, loaded } = state;
    const images = look(learner);
    const [five, one] = [images.slice(0, WAYS), images[WAYS]];
    view.seen(five, learner);
    const missing = support.findIndex((square) => square.empty);
    if (missing >= 0) return view.blank(`It learns from all five: square ${missing + 1} is empty.`);
    if (query.empty) return view.blank("Now draw one of the five again, in the sixth square.");
    const found = await loaded.answer(five, one);
    const nearest = pixels.nearest(one, five);
    const truth = task?.truth ?? null;
    view.answer({ ...found, nearest, truth });
    if (task && !task.counted) count(task, found.best, nearest);
    if (finished) view.speak(found);
    Teach.last = { ...found, learner: learner.name, five, one, nearest, truth };
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
    Object.assign(state, { learner, loaded: null });
    Object.assign(score, { tasks: 0, learner: 0, nearest: 0 });
    view.learner(learner);
    view.tally(score);
    if (state.task && state.task.kind !== learner.pictures) await deal(learner.pictures);
    else if (state.task) state.task.counted = false;
    if (state.started) await begin();
  }

  async function begin() {
    const { learner } = state;
    state.started = true;
    view.starting();
    if (!loaded.has(learner)) loaded.set(learner, load(learner));
    const ready = await loaded.get(learner);
    if (state.learner !== learner) return; // another one was chosen meanwhile
    state.loaded = ready;
    view.started();
    await update();
  }

  async function load(learner) {
    try {
      await runtime.start(root.dataset.runtime);
      return await Teach.Learner.load(learner, root.dataset.learners);
    } catch (error) {
      loaded.delete(learner);
      view.stuck(error);
      throw error;
    }
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
      const five = look(state.learner).slice(0, WAYS);
      save(await state.loaded.learned(five), `learned_with_${state.learner.name}.onnx`);
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
