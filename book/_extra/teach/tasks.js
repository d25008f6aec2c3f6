// Random tasks from the sheets of drawings that the page brings along.
(() => {
  const sheets = new Map();

  function shuffled(length) {
    const order = [...Array(length).keys()];
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  async function sheet(kind) {
    if (!sheets.has(kind)) {
      const image = Object.assign(new Image(), { src: Teach.pictures[kind].sheet });
      await image.decode();
      sheets.set(kind, image);
    }
    return sheets.get(kind);
  }

  async function drawing(kind, row, column) {
    const { size } = Teach.pictures[kind];
    const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const place = [column * size, row * size, size, size];
    canvas.getContext("2d").drawImage(await sheet(kind), ...place, 0, 0, size, size);
    return canvas;
  }

  // One drawing of each of five things, and another one of one of them.
  async function random(kind, ways) {
    const { names, drawings } = Teach.pictures[kind];
    const rows = shuffled(names.length).slice(0, ways);
    const truth = Math.floor(Math.random() * ways);
    const columns = rows.map(() => shuffled(drawings));
    return {
      support: await Promise.all(rows.map((row, i) => drawing(kind, row, columns[i][0]))),
      query: await drawing(kind, rows[truth], columns[truth][1]),
      names: rows.map((row) => names[row]),
      truth,
    };
  }

  window.Teach ??= {};
  Teach.tasks = { random, drawing };
})();
