// Renders metric templates as Flagger does, by Flagger's own function: reads a JSON list of {query, model} and writes a list with an
// {output} or an {error} for each.
package main

import (
	"encoding/json"
	"log"
	"os"

	flaggerv1 "github.com/fluxcd/flagger/pkg/apis/flagger/v1beta1"
	"github.com/fluxcd/flagger/pkg/metrics/observers"
)

type question struct {
	Query string                        `json:"query"`
	Model flaggerv1.MetricTemplateModel `json:"model"`
}

type answer struct {
	Output string `json:"output"`
	Error  string `json:"error"`
}

func main() {
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		log.Fatalf("standard input should be a JSON list of queries with their models: %v", err)
	}
	answers := make([]answer, 0, len(questions))
	for _, asked := range questions {
		output, err := observers.RenderQuery(asked.Query, asked.Model)
		if err != nil {
			answers = append(answers, answer{Error: err.Error()})
			continue
		}
		answers = append(answers, answer{Output: output})
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		log.Fatal(err)
	}
}
