package status

import (
	"html/template"
	"strings"
	"unicode"
)

// shown keeps terminals whole that the page is printed on: html/template leaves control
// characters as they are.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// page escapes everything that it is given.
var page = template.Must(template.New("status").Funcs(template.FuncMap{"shown": shown}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>tracer-agent</title><style>
body{font:14px/1.4 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin:.5em 0 1.5em}
td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}th{background:#f3f3f3}
td.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:#a00}
</style></head><body>
<h1>tracer-agent {{.Version}}</h1>
<p>pid {{.PID}}, since {{.Started.UTC.Format "2006-01-02 15:04:05"}} UTC,
{{if .Ready}}ready{{else}}<b class="bad">not ready: {{.Why}}</b>{{end}}{{if not .Enabled}}, <b class="bad">disabled</b>{{end}}.
<a href="/status.json">JSON</a> <a href="/debug/pprof/">profiles</a></p>
<h2>Targets</h2>
<table><tr><th>pid</th><th>service</th><th>executable</th><th>Go</th><th>selected by</th><th>probes</th><th>traces go on by</th></tr>
{{range .Targets}}<tr><td class="n">{{.PID}}</td><td>{{shown .Service}}</td><td>{{shown .Exe}}</td><td>{{shown .Go}}</td><td>{{shown .SelectedBy}}</td>
<td>{{if .Watched}}{{range .Probes}}{{.}} {{end}}{{else}}<span class="bad">not watched{{with .Why}}: {{shown .}}{{end}}</span>{{end}}</td><td>{{.Propagation}}</td></tr>
{{else}}<tr><td colspan="7">none</td></tr>{{end}}</table>
<h2>Losses</h2>
<table>{{range .Losses}}<tr><td>{{.Name}}</td><td>{{shown .Labels}}</td><td class="n">{{.Value}}</td></tr>
{{else}}<tr><td>none</td></tr>{{end}}</table>
<h2>Probes</h2>
<table><tr><th>probe</th><th>point</th><th>cost class</th><th>executables</th><th>hits</th><th>time in the kernel</th></tr>
{{range .Probes}}<tr><td>{{.Probe}}</td><td>{{.Point}}</td><td>{{.Class}}</td><td class="n">{{.Attached}}</td><td class="n">{{.Hits}}</td><td class="n">{{.Time}}</td></tr>
{{else}}<tr><td colspan="6">none attached</td></tr>{{end}}</table>
<h2>Exporters</h2>
<table><tr><th>exporter</th><th>spans waiting</th><th>spans taken</th><th>last batch</th><th>state</th></tr>
{{range .Exporters}}<tr><td>{{.Name}}</td><td class="n">{{.Waiting}}</td><td class="n">{{.Taken}}</td><td>{{with .Tried}}{{.UTC.Format "15:04:05"}} UTC{{end}}</td><td>{{shown .State}}</td></tr>
{{else}}<tr><td colspan="5">none</td></tr>{{end}}</table>
<h2>The agent itself</h2>
<table>{{range .Metrics}}<tr><td>{{.Name}}</td><td>{{shown .Labels}}</td><td class="n">{{.Value}}</td></tr>
{{end}}</table>
</body></html>
`))
