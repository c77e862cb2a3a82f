//go:build go1.25

package main

import (
	"net"

	fiberv3 "github.com/gofiber/fiber/v3"
)

var fiber3 = func(l net.Listener) error {
	app := fiberv3.New()
	app.Use(func(c fiberv3.Ctx) error { return c.Next() })
	ok := func(c fiberv3.Ctx) error { return c.SendString("ok") }
	app.Get("/plain", ok)
	app.Get("/orders/:id", ok)
	app.Get("/missing/:id", func(c fiberv3.Ctx) error { return fiberv3.ErrNotFound })
	app.Group("/api").Get("/items/:id", ok)
	sub := fiberv3.New()
	sub.Get("/users/:id", ok)
	app.Use("/mounted", sub)
	return app.Listener(l, fiberv3.ListenConfig{DisableStartupMessage: true})
}
