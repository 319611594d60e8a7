"""The style of /docs: light and dark, for wide and narrow screens."""

STYLE = """
:root { color-scheme: light dark; --text: #1c2330; --soft: #566074; --back: #fff; --panel: #f4f6f9;
  --line: #d9dee7; --link: #0b57b0; --get: #0a6b4a; --post: #8a4b00; }
@media (prefers-color-scheme: dark) { :root { --text: #e5e9f0; --soft: #a3adbd; --back: #14181f;
  --panel: #1d232d; --line: #343c4a; --link: #7db7ff; --get: #5fd3a5; --post: #f0b060; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; display: grid; grid-template-columns: 16rem minmax(0, 1fr);
  gap: 0 2.5rem; }
header { grid-column: 1 / -1; border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; }
h1, h2, h3 { line-height: 1.25; margin: 0 0 .5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 1.5rem; } h3 { font-size: 1.05rem; }
section:first-child h2 { margin-top: 0; }
a { color: var(--link); }
nav { position: sticky; top: 1rem; align-self: start; font-size: .85rem; display: grid; gap: .3rem;
  max-height: calc(100vh - 2rem); overflow-y: auto; }
nav b { margin-top: .6rem; color: var(--soft); font-weight: 600; }
nav a { text-decoration: none; overflow-wrap: anywhere; }
article { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem;
  margin: 0 0 1rem; }
article:target { outline: 2px solid var(--link); }
p { margin: 0 0 .75rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .85rem; }
code { overflow-wrap: anywhere; }
pre { background: var(--back); border: 1px solid var(--line); border-radius: .35rem; padding: .75rem;
  overflow-x: auto; margin: 0 0 .75rem; }
pre code { overflow-wrap: normal; }
.method { font: 600 .75rem ui-monospace, monospace; color: var(--post); }
.method.get { color: var(--get); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0;
  border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { color: var(--soft); font-weight: 600; }
td:first-child { white-space: nowrap; }
em, small { color: var(--soft); }
@media (max-width: 48rem) { body { display: block; padding: 1rem; }
  nav { position: static; max-height: none; margin-bottom: 1.5rem; } }
"""
