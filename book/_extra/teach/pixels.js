// What the network sees of a square: few pixels, in 0..1, as the images it was trained on.
(() => {
  const FINE = 8; // each pixel is the mean of this many times as many on a side
  const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  // [C, size, size] of a square. Of one channel, ink is 1 and paper 0; of three, paper is white.
  function seen(square, { channels, size }) {
    const side = size * FINE;
    Object.assign(scratch.canvas, { width: side, height: side });
    square.paint(scratch, side, { fit: square.fit(), blocks: true });
    const { data } = scratch.getImageData(0, 0, side, side);
    const area = size * size;
    const sums = new Float64Array(3 * area);
    for (let y = 0, from = 0; y < side; y++) {
      for (let x = 0; x < side; x++, from += 4) {
        const to = Math.floor(y / FINE) * size + Math.floor(x / FINE);
        for (let c = 0; c < 3; c++) sums[c * area + to] += data[from + c];
      }
    }
    const colors = Float32Array.from(sums, (sum) => sum / (FINE * FINE * 255));
    return channels === 3 ? colors : inked(colors, area);
  }

  const inked = (colors, area) =>
    Float32Array.from({ length: area }, (_, i) => {
      const paper = 0.299 * colors[i] + 0.587 * colors[area + i] + 0.114 * colors[2 * area + i];
      return 1 - paper;
    });

  // Nothing is learned here: the class of the square whose pixels are nearest.
  function nearest(query, support) {
    const distance = (image) => image.reduce((sum, value, i) => sum + (value - query[i]) ** 2, 0);
    const all = support.map(distance);
    return all.indexOf(Math.min(...all));
  }

  // Show an image again, as it was seen.
  function show(image, { channels, size }, canvas) {
    Object.assign(canvas, { width: size, height: size });
    const area = size * size;
    const picture = new ImageData(size, size);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++)
        picture.data[4 * i + c] = 255 * (channels === 3 ? image[c * area + i] : 1 - image[i]);
      picture.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  window.Teach ??= {};
  Teach.pixels = { seen, nearest, show };
})();
