"""Opens the report as a person does: from disk, without a network."""

from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page


class Opens:
    """Opens pages from disk, without a network.

    Attributes:
        said: what they complained of, or asked the network for; it fails the test if anything is left.
    """

    def __init__(self, browser: Browser) -> None:
        self.said: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def __call__(
        self, file: Path, address: str = "#/", *, scheme: str = "light", width: int = 1300
    ) -> Page:
        context = self._browser.new_context(
            viewport={"width": width, "height": 850},
            color_scheme=scheme,  # type: ignore[arg-type]
            offline=True,
            accept_downloads=True,
        )
        self._contexts.append(context)
        opened = context.new_page()
        opened.on("console", lambda message: self.said.append(message.text))
        opened.on("pageerror", lambda error: self.said.append(str(error)))
        opened.on("request", lambda request: self._asked(request.url))
        opened.goto(f"file://{file}{address}")
        opened.wait_for_function("window.page !== undefined")
        return opened

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.said.append(url)

    def close(self) -> None:
        """Close all."""
        for context in self._contexts:
            context.close()
