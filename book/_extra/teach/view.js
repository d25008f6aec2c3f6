// What is on the page: made once, then only filled in.
(() => {
  const INKS = { black: "#1a1a1a", red: "#d62828", orange: "#f08c1a", yellow: "#ffd23f", green: "#2f9e44", blue: "#2374d8", purple: "#8e44ad", pink: "#ff8fab", brown: "#8a5a2b", white: "#ffffff" };
  const PENS = { fine: 0.045, medium: 0.09, broad: 0.2 };
  const ICONS = {
    undo: "M7 7 3 11l4 4M3 11h10a5 5 0 0 1 0 10h-3",
    clear: "M6 6l12 12M18 6 6 18",
    picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  };
  const icon = (name) => `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;

  function square(i, ways) {
    const test = i === ways;
    const which = test ? "the test square" : `square ${i + 1}`;
    const buttons = ["undo", "clear"].map(
      (what) => `<button type="button" data-do="${what}" aria-label="${what} ${which}" title="${what}">${icon(what)}</button>`,
    );
    const purpose = test ? "the picture to recognize" : "one picture to learn";
    return `<li class="teach-square" data-square="${test ? "test" : i + 1}">
      <div class="teach-head">
        <b>${test ? "Which?" : i + 1}</b>
        <span>${buttons.join("")}<label title="a picture or the camera">${icon("picture")}<input type="file" accept="image/*" aria-label="picture for ${which}"></label></span>
      </div>
      <canvas tabindex="0" role="application" aria-roledescription="drawing area" aria-describedby="teach-keys" aria-label="${which}: ${purpose}"></canvas>
    </li>`;
  }

  const choice = (group, [name, value], i, look) =>
    `<label title="${name}"><input type="radio" name="teach-${group}" value="${value}" aria-label="${name}"${i ? "" : " checked"}><i style="${look}"></i></label>`;

  const answer = (i) => `<li data-answer="${i + 1}">
    <canvas width="64" height="64" aria-hidden="true"></canvas><b>${i + 1}</b><span class="teach-track"><i></i></span><output></output>
  </li>`;

  const ray = (i, ways) => {
    const x = (100 * (i + 0.5)) / ways;
    return `<path data-ray="${i + 1}" pathLength="1" d="M${x} 0C${x} 22 50 8 50 30"/>`;
  };

  function html(ways, learners) {
    const each = [...Array(ways).keys()];
    const inks = Object.entries(INKS).map((ink, i) => choice("ink", ink, i, `background: ${ink[1]}`));
    const pens = Object.entries(PENS).map((pen, i) => choice("pen", pen, (i + 2) % 3, `width: ${0.3 + 4 * pen[1]}em; height: ${0.3 + 4 * pen[1]}em`));
    return `
      <div class="teach-bar">
        <label class="teach-choice">Learner <select>${learners.map((of, i) => `<option value="${i}">${name(of)}</option>`).join("")}</select></label>
        <span class="teach-about"></span>
      </div>
      <div class="teach-bar teach-buttons">
        <button type="button" data-do="emoji">Random emoji</button>
        <button type="button" data-do="glyphs">Random glyphs</button>
        <button type="button" data-do="twenty">Twenty tasks</button>
        <button type="button" data-do="wipe">Clear all, and draw</button>
      </div>
      <div class="teach-bar">
        <fieldset class="teach-inks"><legend>Ink</legend>${inks.join("")}</fieldset>
        <fieldset class="teach-pens"><legend>Pen</legend>${pens.join("")}</fieldset>
      </div>
      <ol class="teach-board">
        ${each.map((i) => square(i, ways)).join("")}
        <li class="teach-learner">
          <svg viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true">${each.map((i) => ray(i, ways)).join("")}</svg>
          <p><span class="teach-does"></span> <output class="teach-time"></output></p>
        </li>
        ${square(ways, ways)}
        <li class="teach-answer" hidden>
          <ol>${each.map(answer).join("")}</ol>
          <p class="teach-verdict"></p>
        </li>
        <li class="teach-start">
          <button type="button" data-do="start">Let it learn</button>
          <p>Reads 5 MB, once. Nothing that you draw leaves this page.</p>
        </li>
      </ol>
      <p class="teach-tally"></p>
      <div class="teach-bar teach-buttons">
        <button type="button" data-do="learner">Download this learner</button>
        <button type="button" data-do="learned">Download what it learned</button>
      </div>
      <p class="teach-hint" id="teach-keys">Draw with a mouse, a finger or a pen; drop a picture on a square, or choose one (a phone offers its camera, too). With the keyboard: the arrow keys move the pen, space puts it down and lifts it, Z undoes, Delete clears.</p>
      <p class="teach-spoken" role="status" aria-live="polite"></p>`;
  }

  const name = ({ title, bytes, right }) =>
    `${title}: ${Math.round(bytes / 1000)} kB, ${(100 * right).toFixed(0)}\u00a0% right`;

  const about = ({ right, half_width, tasks, pictures }) =>
    `right: ${(100 * right).toFixed(1)} ± ${(100 * half_width).toFixed(1)}\u00a0% over ${tasks} tasks of new ${pictures}`;

  const percent = (value) => `${Math.round(100 * value)}\u00a0%`;

  class View {
    constructor(root, ways, learners) {
      this.root = root;
      root.innerHTML = html(ways, learners);
      this.canvases = [...root.querySelectorAll(".teach-square canvas")];
      this.answers = [...root.querySelectorAll("[data-answer]")];
    }

    find(selector) {
      return this.root.querySelector(selector);
    }

    get ink() {
      return this.find("[name=teach-ink]:checked").value;
    }

    get pen() {
      return Number(this.find("[name=teach-pen]:checked").value);
    }

    learner(learner) {
      this.find(".teach-about").textContent = about(learner);
      this.find(".teach-does").textContent = learner.does;
      this.find(".teach-inks").hidden = learner.channels === 1;
    }

    starting() {
      Object.assign(this.find("[data-do=start]"), { disabled: true, textContent: "One moment …" });
    }

    started() {
      this.find(".teach-start").hidden = true;
      this.find(".teach-answer").hidden = false;
      this.root.dataset.state = "ready";
    }

    stuck({ message }) {
      Object.assign(this.find("[data-do=start]"), { disabled: false, textContent: "Try again" });
      this.find(".teach-start p").textContent = `That did not work: ${message}.`;
    }

    say(words) {
      this.find(".teach-verdict").textContent = words;
    }

    // What the network sees.
    seen(images, learner) {
      images.forEach((image, i) =>
        Teach.pixels.show(image, learner, this.answers[i].querySelector("canvas")),
      );
    }

    name(names) {
      this.canvases.forEach((canvas, i) => (canvas.title = names[i] ?? ""));
    }

    answer({ probabilities, best, nearest, truth, milliseconds }) {
      this.answers.forEach((row, i) => {
        row.querySelector("i").style.width = `${100 * probabilities[i]}%`;
        row.querySelector("output").textContent = percent(probabilities[i]);
        row.classList.toggle("teach-best", i === best);
        row.classList.toggle("teach-true", i === truth);
      });
      this.find("[data-square=test]").style.setProperty("--class", `var(--class-${best + 1})`);
      this.find(".teach-time").textContent = `${milliseconds.toFixed(0)} ms`;
      const judged = (said) => (truth === null ? "" : said === truth ? " ✓" : " ✗");
      this.say(`It says ${best + 1}${judged(best)}. The nearest pixels say ${nearest + 1}${judged(nearest)}.`);
      this.root.querySelectorAll("[data-ray]").forEach((ray) => {
        ray.getAnimations?.().forEach((animation) => animation.cancel());
        ray.style.animation = "none";
        void ray.getBoundingClientRect();
        ray.style.animation = "";
      });
    }

    blank(words) {
      this.answers.forEach((row) => {
        row.querySelector("i").style.width = "0";
        row.querySelector("output").textContent = "";
        row.classList.remove("teach-best", "teach-true");
      });
      this.find("[data-square=test]").style.removeProperty("--class");
      this.find(".teach-time").textContent = "";
      this.say(words);
    }

    // For those who do not see the bars.
    speak({ best, probabilities }) {
      const sure = Math.round(100 * probabilities[best]);
      this.find(".teach-spoken").textContent = `It says ${best + 1}, with ${sure} percent.`;
    }

    tally({ tasks, learner, nearest }) {
      this.find(".teach-tally").textContent = tasks
        ? `Random tasks so far: it was right in ${learner} of ${tasks}, the nearest pixels were in ${nearest}.`
        : "";
    }
  }

  window.Teach ??= {};
  Teach.View = View;
})();
