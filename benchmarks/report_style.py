"""How a report looks: one sheet for light, dark and paper. Nothing in it is fetched from anywhere."""

from .report_svg import STYLE as CHART_STYLE

STYLE = (
    """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--line:#dfe3e8;--paper:#fff;--ground:#f6f7f9;
--accent:#c2255c;
--tint:#c2255c14}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--line:#2b323a;--paper:#14181d;--ground:#0d1014;
--accent:#ff6b9d;--tint:#ff6b9d1f}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,
'DejaVu Sans',sans-serif}
main{max-width:1240px;margin:0 auto;padding:40px 28px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:20px;margin:52px 0 6px;letter-spacing:-.005em}
h3{font-size:15px;margin:26px 0 6px}
p{max-width:78ch;margin:6px 0 12px}
.soft,figcaption,small{color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:0 28px;margin:10px 0 0;padding:0;list-style:none;color:var(--soft)}
.facts b{color:var(--ink);font-weight:600}
nav{margin:20px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:14px;margin:26px 0 0}
.card{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.card b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.card small{display:block;font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(500px,100%),1fr));gap:16px;margin:14px 0}
.charts>*{border:1px solid var(--line);border-radius:8px;overflow:hidden;background:var(--paper)}
svg.chart{display:block;width:100%;height:auto}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px;background:var(--paper);margin:12px 0}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);vertical-align:bottom;background:var(--paper)}
td.w,th.w{text-align:left}
tbody tr:last-child td{border-bottom:0}
tr.own td{background:var(--tint)}
tr.last td{font-weight:600}
.crops{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:18px 16px;margin:14px 0}
figure{margin:0}
.crops img{display:block;width:100%;image-rendering:pixelated;border-radius:4px;background:#0003}
.crops img+img{margin-top:4px}
figcaption{font-size:13px;line-height:1.4;margin-top:6px;overflow-wrap:anywhere}
figcaption b{color:var(--ink)}
.own figcaption b{color:var(--accent)}
.map{display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start}
.map img{max-width:100%;height:auto;border-radius:6px;display:block}
.map figure{flex:0 1 560px;min-width:280px}
.map .scroll{flex:1 1 380px;margin:0}
.ramp{display:flex;align-items:center;gap:8px;font-size:13px;color:var(--soft);margin-top:8px}
.ramp img{height:12px;width:180px;border-radius:2px;image-rendering:auto}
pre{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;
font:13px/1.5
ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 20px;font-size:14px;margin:10px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--accent);margin:14px 0 4px}
@media(max-width:600px){main{padding:24px 14px 48px}dl{grid-template-columns:1fr}dt{margin-top:8px}}
@media print{:root{--ink:#1b1f24;--soft:#59636e;--line:#dfe3e8;--paper:#fff;--ground:#fff;--accent:#c2255c;
--tint:#c2255c14}
body{font-size:11px}main{max-width:none;padding:0}nav{display:none}.charts{grid-template-columns:1fr 1fr}
.charts>*,figure,tr{break-inside:avoid}h2,h3{break-after:avoid}.scroll{overflow:visible;border:0}th,td{padding:3px 5px;
font-size:9px;white-space:normal}}
"""
    + CHART_STYLE
)
