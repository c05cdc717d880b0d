"""How the page looks, light and dark, wide, narrow and on paper. Nothing is told by colour alone."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--soft:#f3f5f8;--good:#1a7f37;
--bad:#b42318;--warn:#8a5300;--link:#0a58ca;--copy:#6e9bd8;--drain:#d9a441;--switch:#5b5bd6;--reboot:#9b4dca;
--gate:#2a9d8f;--soak:#9aa5b1;--back:#e07a1f;--other:#7d8590}
@media(prefers-color-scheme:dark){:root{--bg:#0f1318;--fg:#e6e9ed;--dim:#9aa4af;--line:#323a44;--soft:#191f27;
--good:#4ac26b;--bad:#ff7b72;--warn:#e3b341;--link:#79b8ff;--copy:#5b8bd0;--drain:#c9922f;--switch:#8484f0;
--reboot:#b87be0;--gate:#3fb8a8;--soak:#6b7681;--back:#ef8e3b;--other:#8b949e}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem clamp(.75rem,3vw,2.5rem);max-width:90rem;background:var(--bg);color:var(--fg);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.2rem 0 .7rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:0 0 .6rem;overflow-wrap:anywhere}
p{margin:.4rem 0}
code,pre{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.875em}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1rem;margin:0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.outcome{display:inline-block;padding:.15rem .7rem;border-radius:1rem;border:2px solid currentColor;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.dim{color:var(--dim)}
.counts{display:flex;flex-wrap:wrap;gap:.6rem;list-style:none;padding:0;margin:1rem 0 0}
.counts li{background:var(--soft);border:1px solid var(--line);border-radius:.5rem;padding:.4rem .9rem}
.counts b{font-size:1.3rem;margin-right:.4rem}
.failure{border:1px solid var(--line);border-left:.35rem solid var(--bad);border-radius:.4rem;padding:.9rem 1rem;
margin:0 0 1rem;background:var(--soft)}
pre{margin:0;padding:.5rem .7rem;background:var(--bg);border:1px solid var(--line);border-radius:.3rem;
white-space:pre-wrap;overflow-wrap:anywhere}
.scrolls{overflow-x:auto;max-width:100%}
.scrolls:focus-visible,summary:focus-visible,a:focus-visible{outline:3px solid var(--link);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.9rem}
caption{text-align:left;color:var(--dim);padding:.2rem 0 .5rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}
thead th{color:var(--dim);font-weight:600;white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
td.bars{width:60%;min-width:18rem;padding-right:0}
tr.wave th{background:var(--soft);padding-left:.5rem;font-weight:600}
.nums{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{display:block;width:100%;height:1.25rem;background:var(--soft);border-radius:.2rem}
.axis{display:flex;justify-content:space-between;color:var(--dim);font-variant-numeric:tabular-nums;font-weight:400}
.k-copy{fill:var(--copy)}.k-drain{fill:var(--drain)}.k-switch{fill:var(--switch)}.k-reboot{fill:var(--reboot)}
.k-gate{fill:var(--gate)}.k-soak{fill:var(--soak)}.k-back{fill:var(--back)}.k-other{fill:var(--other)}
.x{fill:var(--bad)}.r{fill:none;stroke:var(--bad);stroke-width:2;vector-effect:non-scaling-stroke}
.o{fill-opacity:.45;stroke:var(--fg);stroke-dasharray:3 2;vector-effect:non-scaling-stroke}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;list-style:none;padding:0;margin:.3rem 0 .8rem;font-size:.9rem}
.legend svg{display:inline-block;width:1rem;height:.8rem;vertical-align:-.05rem;margin-right:.35rem;background:none}
details{margin:.5rem 0}summary{cursor:pointer}
footer{margin-top:2.5rem;color:var(--dim);font-size:.85rem}
@media(max-width:45rem){td.bars{min-width:14rem}h1{font-size:1.3rem}dl{grid-template-columns:1fr;gap:0}
dt{margin-top:.4rem}.wide{display:none}th,td{padding-right:.5rem}}
@media print{body{max-width:none;padding:0}.scrolls{overflow:visible}.failure{break-inside:avoid}}
""".strip()
