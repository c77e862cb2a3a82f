package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tracer-agent/tracer-agent/internal/config"
)

// newHealth asks the agent of this pod or host: its page is on loopback, where a
// kubelet's own HTTP probes do not reach.
func newHealth() *cobra.Command {
	var address string
	var ready bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the running agent whether it is well; exit code 0 or 1",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			const within = 3 * time.Second
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			resp, err := (&http.Client{Timeout: within}).Get("http://" + address + path)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", path, strings.TrimSpace(string(text)))
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it is ready")
	cmd.Flags().StringVar(&address, "address", config.Default().Health.Address, "where the agent's page is")
	return cmd
}
