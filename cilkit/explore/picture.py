"""The picture of an explorer as one widget; what the browser does with it is in picture.js."""

from collections.abc import Callable
from pathlib import Path

from anywidget import AnyWidget
from traitlets import Bytes, Unicode


class Picture(AnyWidget):
    """A PNG file with alternative text, a link that saves it, and folded words that explain it.

    If `hint` says what they do, the picture can have the focus, and calls

        clicked(x, y)         a click, in parts of its width and height from its upper left corner
        moved(rows, columns)  arrow keys, 1 each, with Shift 10; keys pressed while the last call
                              works are added up and come as one
    """

    _esm = Path(__file__).with_name("picture.js")
    _css = Path(__file__).with_name("picture.css")
    value = Bytes().tag(sync=True)  # travels as it is, not as a text
    alt = Unicode().tag(sync=True)
    about = Unicode().tag(sync=True)
    file_name = Unicode().tag(sync=True)
    hint = Unicode().tag(sync=True)

    def __init__(
        self,
        clicked: Callable[[float, float], None],
        moved: Callable[[int, int], None],
        **traits: object,
    ):
        super().__init__(**traits)
        self._calls = {"click": clicked, "move": moved}
        self.on_msg(self._on_message)

    def _on_message(self, _: AnyWidget, message: dict, buffers: list) -> None:
        try:
            for kind, numbers in message.items():
                self._calls[kind](*numbers)
        finally:
            self.send({"done": True})  # the browser waits for it before it sends more keys
