package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tracer-agent/tracer-agent/internal/config"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a configuration file, or print the schema of one",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheck(), newConfigSchema())
	return cmd
}

func newConfigCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a configuration file, as run would with this environment",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("want one file, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(config.LoadOptions{File: args[0], Getenv: os.Getenv, Probes: probeNames()})
			if err != nil {
				return err
			}
			// The patterns and users of selectors, and what exporters need.
			if _, err := newSelector(cfg, nil); err != nil {
				return err
			}
			if cfg.SelectsNothing() {
				fmt.Fprintln(cmd.ErrOrStderr(), "tracer-agent: "+errNothingSelected.Error())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", args[0])
			return nil
		},
	}
}

func newConfigSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of the configuration file",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := config.Schema(probeNames())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
}
