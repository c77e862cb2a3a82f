//go:build go1.25

package main

import (
	"net/http"

	echo5 "github.com/labstack/echo/v5"
)

var withEcho5 = func() http.Handler {
	e := echo5.New()
	wrap := func(h http.HandlerFunc) echo5.HandlerFunc { return echo5.WrapHandler(h) }
	e.Use(func(next echo5.HandlerFunc) echo5.HandlerFunc { return next })
	e.GET("/plain", wrap(ok))
	e.GET("/orders/:id", wrap(ok))
	e.GET("/files/*", wrap(ok))
	e.GET("/missing/:id", wrap(missing))
	e.GET("/moved", wrap(moved))
	e.GET("/boom/:id", wrap(boom))
	e.Group("/api").GET("/items/:id", wrap(ok))
	return e
}
