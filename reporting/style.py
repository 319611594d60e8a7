"""How the page looks: one style sheet, light and dark, that loads nothing."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1d2430;--soft:#5b6675;--rule:#dfe3e9;--wash:#f4f6f9;
--ours:#1f5fd0;--rival:#c2570c;--other:#7a8594;--third:#1a7f5a;--good:#1a7f5a;--bad:#b3261e;--bar:#d8e4fb}
@media(prefers-color-scheme:dark){:root{--paper:#14181f;--ink:#e4e8ee;--soft:#9ba6b5;--rule:#313947;
--wash:#1c222c;--ours:#7aa7ff;--rival:#f0954f;--other:#8d98a8;--third:#5cc39a;--good:#5cc39a;--bad:#ff8a80;
--bar:#26385c}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2rem 1.2rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .4rem}
h2{font-size:1.35rem;margin:3.2rem 0 .3rem;padding-top:1.2rem;border-top:1px solid var(--rule)}
h3{font-size:1.02rem;margin:1.8rem 0 .2rem}
p{margin:.45rem 0;max-width:46rem}
.soft,figcaption,.key{color:var(--soft);font-size:.9rem}
.finding{font-weight:600}
nav{font-size:.9rem;margin:1.2rem 0}nav a{color:var(--ours);margin-right:1.1em;white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem;margin:1.4rem 0}
.card{background:var(--wash);border-radius:.5rem;padding:.8rem 1rem}
.card b{display:block;font-size:1.55rem;font-variant-numeric:tabular-nums;line-height:1.25}
.card span{display:block;color:var(--soft);font-size:.84rem;line-height:1.4}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.7rem 0 .4rem;font-size:.9rem;min-width:60%}
th,td{padding:.28rem .75rem .28rem 0;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding-left:.6rem}
td.n.bar{background:linear-gradient(var(--bar),var(--bar)) no-repeat left 0 center/var(--share) 72%}
tr.ours td{font-weight:650}tr.ours td:first-child{color:var(--ours)}
tr.ceiling td{color:var(--soft);font-style:italic}
dl.key{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:.3rem 0 1rem}
dl.key dt{font-weight:600}dl.key dd{margin:0}
details{margin:.8rem 0}summary{cursor:pointer;color:var(--ours)}
figure{margin:1rem 0}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}
svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}
svg text{fill:var(--soft)}svg text.axis,svg text.group{fill:var(--ink)}svg text.group{font-weight:600}
svg text.label{fill:var(--ink)}svg text.inside{fill:var(--paper);font-weight:600}
svg .grid{stroke:var(--rule);stroke-width:1;fill:none}
svg .zero{stroke:var(--soft);stroke-dasharray:3 3;fill:none}
svg .line{fill:none;stroke-width:2}svg .band{fill:var(--bar);opacity:.75}
svg .line.ours{stroke:var(--ours)}svg .line.rival{stroke:var(--rival)}svg .line.third{stroke:var(--third)}
svg .line.other{stroke:var(--other)}svg .line.zero{stroke-width:1}
svg circle.ours{fill:var(--ours)}svg circle.rival{fill:var(--rival)}svg circle.third{fill:var(--third)}
svg circle.other{fill:var(--other)}
svg rect.share{fill:color-mix(in srgb,var(--ours) calc(var(--shade)*100%),var(--other))}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin:0 .35em 0 1em}
.swatch:first-child{margin-left:0}
.swatch.ours{background:var(--ours)}.swatch.rival{background:var(--rival)}.swatch.third{background:var(--third)}
.swatch.other{background:var(--other)}
.example{background:var(--wash);border-radius:.5rem;padding:.9rem 1.1rem;margin:1rem 0}
.example h3{margin:0}.example table{margin:.4rem 0;width:100%}
.example td{padding-top:.16rem;padding-bottom:.16rem}
tr.bought td{color:var(--good);font-weight:600}
.alarm{color:var(--bad);font-weight:600}
.verdict{font-size:1.25rem;line-height:1.4;font-weight:600;border-left:.3rem solid var(--other);
padding:.2rem 0 .2rem 1rem;margin:1.2rem 0;max-width:none}
.verdict.good{border-color:var(--good)}.verdict.bad{border-color:var(--bad)}
"""
