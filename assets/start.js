// Runs before the page is painted: brings in the reader's language, and shows the account's side of the front page at
// once when this tab is signed in.
(() => {
  const LANGUAGE = 'supersync_language';
  const stored = (storage, name) => {
    try {
      return storage.getItem(name);
    } catch {
      return null; // Storage can be switched off; then there is nothing to remember.
    }
  };
  const address = new URL(location.href);
  // Addresses in pages are relative, so the front page of a server under a path needs the slash at its end.
  const front = new URL('../../', document.currentScript.src).pathname;
  if (`${address.pathname}/` === front) {
    address.pathname = front;
    location.replace(address);
    return;
  }
  const chosen = address.searchParams.get('lang') ?? stored(localStorage, LANGUAGE);
  if (!address.searchParams.has('lang') && (chosen === 'en' || chosen === 'de') && chosen !== document.documentElement.lang) {
    address.searchParams.set('lang', chosen);
    location.replace(address);
  }
  if (stored(sessionStorage, 'loginToken')) {
    document.documentElement.dataset.session = '';
  }
  document.addEventListener('click', (event) => {
    const language = event.target.closest?.('a[data-language]')?.dataset.language;
    if (!language) return;
    try {
      localStorage.setItem(LANGUAGE, language);
    } catch {
      // The choice then lasts for this page only, as its address says.
    }
  });
})();
