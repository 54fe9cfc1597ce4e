package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// WriteResults leaves what was measured as NAME.json and its tables as NAME.md in
// dir, and prints the tables.
func WriteResults(dir, name string, measured any, tables string) error {
	data, err := json.MarshalIndent(measured, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Print(tables)
	return os.WriteFile(filepath.Join(dir, name+".md"), []byte(tables), 0o644)
}
