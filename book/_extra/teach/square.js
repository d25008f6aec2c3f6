// A square to draw in: strokes over a picture, by mouse, finger, pen or arrow keys.
(() => {
  const STEP = 1 / 16; // what an arrow key moves the pen
  const ROOM = 0.85; // of a square's side, what a drawing fills for the network, its ink included
  const LARGEST = 2.5; // and how far it is magnified for that
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  class Square {
    constructor(canvas, pen, changed) {
      Object.assign(this, { canvas, pen, changed, strokes: [], picture: null, past: [] });
      this.key = { x: 0.5, y: 0.5, down: false };
      this.current = null;
      this.#listen();
    }

    get empty() {
      return this.picture === null && this.strokes.length === 0;
    }

    // What follows can be undone.
    remember() {
      this.past.push({ strokes: [...this.strokes], picture: this.picture });
    }

    undo() {
      if (!this.past.length) return;
      Object.assign(this, this.past.pop());
      this.#tell();
    }

    clear() {
      if (!this.empty) this.show(null);
    }

    show(picture) {
      this.remember();
      Object.assign(this, { picture, strokes: [] });
      this.#tell();
    }

    begin(x, y, pen = this.pen) {
      this.remember();
      this.current = { color: pen.color, width: pen.width, points: [[x, y]] };
      this.strokes.push(this.current);
      this.#tell(false);
    }

    move(x, y) {
      this.current.points.push([clamp(x, 0, 1), clamp(y, 0, 1)]);
      this.#tell(false);
    }

    end() {
      if (this.current === null) return;
      this.current = null;
      this.#tell();
    }

    // How a drawing is laid into the middle of the square, as training images are.
    fit() {
      const points = this.strokes.flatMap((stroke) => stroke.points);
      if (this.picture || !points.length) return { x: 0.5, y: 0.5, scale: 1 };
      const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
      const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      const ink = Math.max(...this.strokes.map(({ width }) => width));
      const scale = Math.min(LARGEST, (ROOM - ink) / Math.max(right - left, bottom - top, 0.01));
      return { x: (left + right) / 2, y: (top + bottom) / 2, scale };
    }

    // On white paper; a small picture is magnified in whole blocks where its pixels count.
    paint(context, side, { fit = { x: 0.5, y: 0.5, scale: 1 }, blocks = false } = {}) {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, side, side);
      context.imageSmoothingEnabled = !(blocks && this.picture && this.picture.width <= side);
      context.imageSmoothingQuality = "high";
      if (this.picture) context.drawImage(this.picture, 0, 0, side, side);
      Object.assign(context, { lineCap: "round", lineJoin: "round" });
      for (const { color, width, points } of this.strokes) {
        const placed = points.map(([x, y]) => [
          ((x - fit.x) * fit.scale + 0.5) * side,
          ((y - fit.y) * fit.scale + 0.5) * side,
        ]);
        Object.assign(context, { strokeStyle: color, lineWidth: width * side });
        context.beginPath();
        context.moveTo(...placed[0]);
        for (const point of placed) context.lineTo(...point);
        context.stroke();
      }
    }

    redraw() {
      const side = Math.round(this.canvas.clientWidth * Math.max(1, devicePixelRatio)) || 1;
      Object.assign(this.canvas, { width: side, height: side });
      const context = this.canvas.getContext("2d");
      this.paint(context, side);
      if (document.activeElement === this.canvas && this.canvas.matches(":focus-visible"))
        this.#cross(context, side);
    }

    #cross(context, side) {
      const [x, y, arm] = [this.key.x * side, this.key.y * side, side / 20];
      Object.assign(context, { strokeStyle: this.key.down ? "#c00" : "#555", lineWidth: side / 80 });
      context.beginPath();
      context.moveTo(x - arm, y), context.lineTo(x + arm, y);
      context.moveTo(x, y - arm), context.lineTo(x, y + arm);
      context.stroke();
    }

    #tell(finished = true) {
      this.redraw();
      this.changed(this, finished);
    }

    #listen() {
      const { canvas } = this;
      const place = (event) => {
        const { left, top, width, height } = canvas.getBoundingClientRect();
        return [(event.clientX - left) / width, (event.clientY - top) / height];
      };
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || this.current) return;
        canvas.setPointerCapture(event.pointerId);
        this.begin(...place(event));
      });
      canvas.addEventListener("pointermove", (event) => {
        if (this.current === null || this.key.down) return;
        const steps = event.getCoalescedEvents?.() ?? [];
        for (const step of steps.length ? steps : [event]) this.move(...place(step));
      });
      for (const kind of ["pointerup", "pointercancel"])
        canvas.addEventListener(kind, () => this.key.down || this.end());
      canvas.addEventListener("keydown", (event) => this.#press(event));
      canvas.addEventListener("focus", () => this.redraw());
      canvas.addEventListener("blur", () => {
        if (this.key.down) this.#lift();
        this.redraw();
      });
      new ResizeObserver(() => this.redraw()).observe(canvas);
    }

    #lift() {
      this.key.down = false;
      this.end();
    }

    #press(event) {
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      const { key } = this;
      if (dx || dy) {
        Object.assign(key, { x: clamp(key.x + dx * STEP, 0, 1), y: clamp(key.y + dy * STEP, 0, 1) });
        if (key.down) this.move(key.x, key.y);
        else this.redraw();
      } else if (event.key === " ") {
        if (key.down) this.#lift();
        else if (this.current === null) (key.down = true), this.begin(key.x, key.y);
      } else if (event.key === "Delete" || event.key === "Backspace") this.#lift(), this.clear();
      else if (event.key === "z" || event.key === "Z") this.#lift(), this.undo();
      else return;
      event.preventDefault();
    }
  }

  window.Teach ??= {};
  Teach.Square = Square;
})();
