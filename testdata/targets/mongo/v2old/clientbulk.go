package main

import (
	"context"
	"errors"
)

// clientBulkWrite: drivers before 2.1 have no such command.
func clientBulkWrite(context.Context, *client, int) error {
	return errors.New("this driver has no command bulkWrite")
}
