package nethttp

import (
	_ "embed"

	"github.com/tracer-agent/tracer-agent/internal/goexe"
	"github.com/tracer-agent/tracer-agent/internal/probe"
)

//go:embed routers.json
var routersJSON []byte

// groupGorilla is the one router group whose offsets are sums.
const groupGorilla = "route-gorilla-mux"

// Where routers keep the template of the route that was found.
var (
	ginPath      = routerField("github.com/gin-gonic/gin", "Context", "fullPath")
	echo4Path    = routerField("github.com/labstack/echo/v4", "context", "path")
	echo5Path    = routerField("github.com/labstack/echo/v5", "Context", "path")
	chiPattern   = routerField("github.com/go-chi/chi", "Context", "routePattern")
	chiPatterns  = routerField("github.com/go-chi/chi", "Context", "RoutePatterns")
	chi5Pattern  = routerField("github.com/go-chi/chi/v5", "Context", "routePattern")
	chi5Patterns = routerField("github.com/go-chi/chi/v5", "Context", "RoutePatterns")
	muxConf      = routerField("github.com/gorilla/mux", "Route", "routeConf")
	muxRegexp    = routerField("github.com/gorilla/mux", "routeConf", "regexp")
	muxPath      = routerField("github.com/gorilla/mux", "routeRegexpGroup", "path")
	muxTemplate  = routerField("github.com/gorilla/mux", "routeRegexp", "template")
)

func routerField(module, typ, name string) goexe.Field {
	return goexe.Field{Module: module, Type: module + "." + typ, Name: name}
}

// router is one router: where its program sits, and what it reads.
type router struct {
	group, point, program string
	site                  probe.Site
	fields                []goexe.Field
}

func routers() []router {
	// pool is where a router's ServeHTTP gives its context back.
	pool := func(funcs ...string) probe.Site {
		return probe.Site{Kind: probe.CallSite, Funcs: funcs, Callees: []string{"sync.(*Pool).Put"}}
	}
	return []router{
		{"route-gin", "gin", "nh_gin", pool("github.com/gin-gonic/gin.(*Engine).ServeHTTP"),
			[]goexe.Field{ginPath}},
		{"route-echo", "echo", "nh_echo4", pool("github.com/labstack/echo/v4.(*Echo).ServeHTTP"),
			[]goexe.Field{echo4Path}},
		{"route-echo5", "echo5", "nh_echo5", pool("github.com/labstack/echo/v5.(*Echo).serveHTTP.deferwrap1"),
			[]goexe.Field{echo5Path}},
		{"route-chi", "chi", "nh_chi", pool("github.com/go-chi/chi.(*Mux).ServeHTTP"),
			[]goexe.Field{chiPattern, chiPatterns}},
		{"route-chi5", "chi5", "nh_chi5", pool("github.com/go-chi/chi/v5.(*Mux).ServeHTTP"),
			[]goexe.Field{chi5Pattern, chi5Patterns}},
		{groupGorilla, "gorilla_mux", "nh_gmux",
			probe.Site{Kind: probe.Entry, Funcs: []string{"github.com/gorilla/mux.requestWithRoute"}, Args: 2},
			[]goexe.Field{muxConf, muxRegexp, muxPath, muxTemplate}},
	}
}

// routerGroups has one group per router: a release that is not known costs its routes
// and nothing else, so its offsets are not among the probe's own.
func routerGroups() []probe.Group {
	var gs []probe.Group
	for _, r := range routers() {
		gs = append(gs, probe.Group{Name: r.group, What: "http.route of " + r.fields[0].Module,
			Check: func(p *probe.Placed) error {
				if err := lookUp(p, routersJSON, r.fields); err != nil {
					return err
				}
				return need(p, r.fields)
			}})
	}
	return gs
}

func routerPoints() []probe.Point {
	var pts []probe.Point
	for _, r := range routers() {
		pts = append(pts, probe.Point{Name: r.point, Program: r.program, Group: r.group, Site: r.site})
	}
	return pts
}
