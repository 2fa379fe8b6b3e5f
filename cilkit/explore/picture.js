// What the browser does with a cilkit.explore.picture.Picture: see there.

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function make(tag, parent, attributes = {}, text = "") {
  const element = parent.appendChild(document.createElement(tag));
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function render({ model, el }) {
  const head = make("div", el, { class: "cilkit-head" });
  const about = make("details", head);
  make("summary", about, {}, "What am I looking at?");
  make("p", about, {}, model.get("about"));
  const save = make("a", head, {}, "Save picture");
  const saved = make("span", head, { role: "status" });
  const frame = make("div", el, { class: "cilkit-frame" });
  const image = make("img", frame);

  function show() {
    const png = model.get("value");
    if (png.byteLength === 0) return; // the picture is about to be hidden
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([png], { type: "image/png" }));
    image.alt = model.get("alt");
    save.href = image.src;
    save.download = model.get("file_name");
    saved.textContent = "";
  }
  show();
  model.on("change", show);
  save.addEventListener("click", () => {
    saved.textContent = `The browser saves ${save.download} among its downloads.`;
  });

  let [rows, columns] = [0, 0]; // keys that the kernel was not told of
  let waiting = false; // for its answer to the last message

  function send() {
    if (waiting || (rows === 0 && columns === 0)) return;
    model.send({ move: [rows, columns] });
    [rows, columns, waiting] = [0, 0, true];
  }
  function onMessage(message) {
    if (!message.done) return;
    waiting = false;
    send();
  }
  function onKey(event) {
    const arrow = ARROWS[event.key];
    if (!arrow || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    rows += arrow[0] * (event.shiftKey ? 10 : 1);
    columns += arrow[1] * (event.shiftKey ? 10 : 1);
    send();
  }
  function onClick(event) {
    const box = image.getBoundingClientRect();
    // a browser tells whole pixels of the page, where pictures are scaled: their middle is meant
    const x = (event.clientX + 0.5 - box.left) / box.width;
    const y = (event.clientY + 0.5 - box.top) / box.height;
    [rows, columns, waiting] = [0, 0, true];
    model.send({ click: [x, y] });
  }
  // Notebook 7 asks for shortcuts before any element of the page, so keys are taken above it
  const listen = () => window.addEventListener("keydown", onKey, true);
  const ignore = () => window.removeEventListener("keydown", onKey, true);

  if (model.get("hint")) {
    frame.tabIndex = 0;
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", model.get("hint"));
    frame.addEventListener("focus", listen);
    frame.addEventListener("blur", ignore);
    image.addEventListener("click", onClick);
    model.on("msg:custom", onMessage);
  }
  return () => { // anywidget itself takes off what listens to the model
    ignore();
    URL.revokeObjectURL(image.src);
  };
}

export default { render };
