// A picture from a disk, a phone's camera or another window: its middle, as a square.
(() => {
  const SIDE = 256;

  async function cropped(file) {
    const image = await createImageBitmap(file);
    const side = Math.min(image.width, image.height);
    const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // under what is transparent
    context.fillRect(0, 0, SIDE, SIDE);
    context.imageSmoothingQuality = "high";
    const corner = [(image.width - side) / 2, (image.height - side) / 2];
    context.drawImage(image, ...corner, side, side, 0, 0, SIDE, SIDE);
    return canvas;
  }

  function accept(place, take, failed) {
    const read = (files) => {
      const file = [...files].find(({ type }) => type.startsWith("image/"));
      if (file) cropped(file).then(take).catch(() => failed(new Error("this picture cannot be read")));
    };
    place.querySelector("input[type=file]").addEventListener("change", ({ target }) => {
      read(target.files);
      target.value = ""; // so that the same file can be chosen again
    });
    place.addEventListener("dragover", (event) => {
      event.preventDefault();
      place.classList.add("teach-over");
    });
    place.addEventListener("dragleave", () => place.classList.remove("teach-over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("teach-over");
      read(event.dataTransfer.files);
    });
  }

  window.Teach ??= {};
  Teach.photo = { accept };
})();
